// Runs TorchScript archives by the LibTorch it is linked with, as phones do. One job a line on standard input:
//   load ARCHIVE                               only load it
//   run ARCHIVE INPUTS OUTPUTS                 call it once
//   train ARCHIVE INPUTS OUTPUTS STEPS         feed what comes out after loss and accuracy back in as the last input
// Answers "ok", or "error" and the reason in one line. `operators` lists the schemas of all operators.
//
// A file of arguments is a sequence of: 'T' tensor, or 'L' count and its tensors. A tensor is one byte for the dtype
// (0 float32, 1 int64, 2 bool), int64 number of dimensions, int64 sizes, data.
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/script.h>
#include <torch/utils.h>

#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

using torch::Tensor;
using torch::jit::IValue;

static const torch::ScalarType DTYPES[] = {torch::kFloat, torch::kLong, torch::kBool};

static int64_t read_number(std::istream& in) {
  int64_t number = 0;
  in.read(reinterpret_cast<char*>(&number), sizeof number);
  return number;
}

static Tensor read_tensor(std::istream& in) {
  auto dtype = DTYPES[in.get()];
  std::vector<int64_t> sizes(read_number(in));
  for (auto& size : sizes) size = read_number(in);
  Tensor tensor = torch::empty(sizes, dtype);
  in.read(static_cast<char*>(tensor.data_ptr()), tensor.numel() * tensor.element_size());
  return tensor;
}

static std::vector<IValue> read_arguments(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<IValue> arguments;
  for (int kind = in.get(); kind != EOF; kind = in.get()) {
    if (kind == 'T') {
      arguments.emplace_back(read_tensor(in));
      continue;
    }
    c10::List<Tensor> list;
    for (int64_t left = read_number(in); left > 0; --left) list.push_back(read_tensor(in));
    arguments.emplace_back(list);
  }
  return arguments;
}

static void write_number(std::ostream& out, int64_t number) {
  out.write(reinterpret_cast<const char*>(&number), sizeof number);
}

static void write_tensor(std::ostream& out, const Tensor& given) {
  Tensor tensor = given.contiguous();
  char dtype = 0;
  while (DTYPES[static_cast<int>(dtype)] != tensor.scalar_type()) {
    if (++dtype == 3) throw std::runtime_error("an output is of another dtype");
  }
  out.put('T').put(dtype);
  write_number(out, tensor.dim());
  for (auto size : tensor.sizes()) write_number(out, size);
  out.write(static_cast<const char*>(tensor.data_ptr()), tensor.numel() * tensor.element_size());
}

static std::vector<Tensor> call(torch::jit::Module& module, const std::vector<IValue>& arguments) {
  torch::NoGradGuard no_gradients;
  IValue output = module.forward(arguments);
  if (output.isTensor()) return {output.toTensor()};
  std::vector<Tensor> tensors;
  for (const auto& element : output.toTuple()->elements()) tensors.push_back(element.toTensor());
  return tensors;
}

static void work(const std::string& line) {
  std::istringstream words(line);
  std::string job, archive, inputs, outputs;
  int steps = 1;
  words >> job >> archive >> inputs >> outputs >> steps;
  auto module = torch::jit::load(archive);
  if (job == "load") return;
  auto arguments = read_arguments(inputs);
  std::vector<Tensor> results = call(module, arguments);
  for (int step = 1; step < steps; ++step) {
    c10::List<Tensor> parameters;
    for (size_t index = 2; index < results.size(); ++index) parameters.push_back(results[index]);
    arguments.back() = parameters;
    results = call(module, arguments);
  }
  std::ofstream out(outputs, std::ios::binary);
  for (const auto& tensor : results) write_tensor(out, tensor);
}

int main(int count, char** words) {
  if (count > 1 && std::string(words[1]) == "operators") {
    std::set<std::string> schemas;
    for (const auto& op : torch::jit::getAllOperators()) {
      std::ostringstream schema;
      schema << op->schema();
      schemas.insert(schema.str());
    }
    for (const auto& schema : schemas) std::cout << schema << "\n";
    return 0;
  }
  torch::set_num_threads(1);
  for (std::string line; std::getline(std::cin, line);) {
    try {
      work(line);
      std::cout << "ok" << std::endl;
    } catch (const std::exception& error) {
      std::string reason = error.what();
      for (auto& character : reason) {
        if (character == '\n') character = ' ';
      }
      std::cout << "error " << reason << std::endl;
    }
  }
}
