// A phone that runs syft.js 0.1.4: takes part in one cycle of a process, again and again until it is finished.
// Arguments: address of the node, model name, file with {inputs, targets} as nested arrays.
const fs = require('fs');
const tf = require('@tensorflow/tfjs-core');
const { Syft } = require('@openmined/syft.js');

const [url, modelName, dataFile] = process.argv.slice(2);
const data = JSON.parse(fs.readFileSync(dataFile));
const cycles = [];

function train() {
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
          cycles.push(losses);
          resolve('reported');
        } catch (error) {
          reject(error);
        }
      });
      job.on('rejected', ({ timeout }) => resolve(timeout ? 'later' : 'finished'));
      job.on('error', reject);
      job.start();
    }, reject);
  });
}

(async () => {
  for (let state = ''; state !== 'finished'; ) {
    state = await train();
    if (state === 'later') await new Promise((resolve) => setTimeout(resolve, 500));
  }
  console.log(JSON.stringify(cycles));
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
