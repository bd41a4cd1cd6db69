// A phone that runs syft.js 0.1.4: takes part in one cycle of a process, again and again until it is finished.
// In a page it is the function `trainToTheEnd`; with Node.js a program, whose arguments are the address of the node, the
// model's name, and a file with {inputs, targets} as nested arrays.

function takePart(tf, Syft, url, modelName, data) {
  return new Promise((resolve, reject) => {
    // Without verbose it insists on https.
    const worker = new Syft({ url, verbose: true });
    worker.newJob({ modelName, modelVersion: '1.0' }).then((job) => {
      job.on('accepted', async ({ model, clientConfig }) => {
        try {
          const inputs = tf.tensor(data.inputs);
          const targets = tf.tensor(data.targets);
          let params = model.params.map((param) => param.clone());
          const losses = [];
          for (let update = 0; update < clientConfig.max_updates; update++) {
            const [loss, accuracy, ...updated] = await job.plans.training_plan.execute(
              job.worker, inputs, targets, data.inputs.length, clientConfig.lr, ...params
            );
            losses.push([(await loss.data())[0], (await accuracy.data())[0]]);
            params = updated;
          }
          await job.report(await model.createSerializedDiff(params));
          resolve({ state: 'reported', losses });
        } catch (error) {
          reject(error);
        }
      });
      job.on('rejected', ({ timeout }) => resolve({ state: timeout ? 'later' : 'finished' }));
      job.on('error', reject);
      job.start();
    }, reject);
  });
}

// Gives [loss, accuracy] of each update, by cycle.
async function trainToTheEnd(tf, Syft, url, modelName, data) {
  const cycles = [];
  for (;;) {
    const { state, losses } = await takePart(tf, Syft, url, modelName, data);
    if (state === 'finished') return cycles;
    if (state === 'reported') cycles.push(losses);
    else await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

if (typeof require === 'function') {
  const [url, modelName, dataFile] = process.argv.slice(2);
  const data = JSON.parse(require('fs').readFileSync(dataFile));
  trainToTheEnd(require('@tensorflow/tfjs-core'), require('@openmined/syft.js').Syft, url, modelName, data).then(
    (cycles) => {
      console.log(JSON.stringify(cycles));
      process.exit(0);
    },
    (error) => {
      console.error(error);
      process.exit(1);
    }
  );
}
