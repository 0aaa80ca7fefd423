// A world that runs in the browser: V's decoder, M and C as ONNX (worldmodels/export.py), without a server and without
// the real game.

import * as ort from "./ort/ort.wasm.min.mjs";
import { imageOf } from "./server_world.js";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;

const GRAPHS = ["decoder", "memory_initial", "memory_step", "memory_correct"];

export class OnnxWorld {
  hasGame = false;

  static async open(run) {
    const world = new OnnxWorld();
    await world.load(run, new URL(`models/${run.id}/`, import.meta.url));
    return world;
  }

  async load(run, folder) {
    const json = async (name) => (await fetch(new URL(name, folder))).json();
    const names = run.controller ? [...GRAPHS, "controller"] : GRAPHS;
    const session = async (name) => [name, await ort.InferenceSession.create(new URL(`${name}.onnx`, folder).href)];
    this.run = run;
    [this.about, this.starts] = await Promise.all([json("export.json"), json("starts.json")]);
    this.sessions = Object.fromEntries(await Promise.all(names.map(session)));
    this.parts = Object.keys(this.about.graphs.memory_step.inputs).filter((name) => /^(features|inner_\d+)$/.test(name));
  }

  async begin(seed) {
    this.random = generator(seed);
    this.score = this.steps = 0;
    this.terminated = this.truncated = false;
    const { mean, log_var } = this.starts;
    const start = Math.floor(this.random.uniform() * mean.length);
    this.z = Float32Array.from(mean[start], (mu, i) =>
      log_var ? mu + Math.exp(log_var[start][i] / 2) * this.random.normal() : mu);
    this.state = this.stateOf(await this.call("memory_initial", { z: row(this.z), ...this.noise("observe") }));
    return this.view(this.run.low.map(() => 0));
  }

  async step({ actor, action, temperature, z }) {
    if (z) {
      const given = { ...this.state, z: row(z), ...this.noise("observe") };
      this.state = this.stateOf(await this.call("memory_correct", given));
    }
    if (actor !== "you")
      action = (await this.call("controller", { features: this.state.features })).action.data;
    const noise = this.noise("imagine");
    const imagined = await this.call("memory_step", {
      ...this.state, action: row(action), ...noise, temperature: new ort.Tensor("float32", [temperature], []) });
    this.state = this.stateOf(imagined);
    this.z = imagined.z.data;
    this.score += imagined.reward.data[0];
    this.steps += 1;
    this.terminated = noise.noise_done.data[0] < imagined.p_done.data[0];
    this.truncated = !this.terminated && this.steps >= this.run.max_steps;
    return this.view([...action]);
  }

  async look(z) {
    return { pictures: { dream: await this.picture(z) }, z };
  }

  // What is being computed ends first.
  async close() {
    await this.computing?.catch(() => {});
    for (const session of Object.values(this.sessions ?? {})) session.release();
  }

  async view(action) {
    const { score, steps, terminated, truncated } = this;
    return { pictures: { dream: await this.picture(this.z) }, dream: { return: score, steps, terminated, truncated },
             z: Float32Array.from(this.z), action };
  }

  async picture(z) {
    return imageOf((await this.call("decoder", { z: row(z) })).frames.data);
  }

  // A graph takes the inputs that it was exported with; one that it does not need has been dropped from it.
  call(graph, inputs) {
    const session = this.sessions[graph];
    this.computing = session.run(Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]])));
    return this.computing;
  }

  stateOf(outputs) {
    return Object.fromEntries(this.parts.map((part) => [part, outputs[`next_${part}`]]));
  }

  noise(of) {
    const { uniform, normal } = this.about.noise[of];
    const draw = (sizes, next) => Object.entries(sizes).map(([part, size]) =>
      [part, row(Float32Array.from({ length: size }, next))]);
    return Object.fromEntries([...draw(uniform, this.random.uniform), ...draw(normal, this.random.normal)]);
  }
}

const row = (values) => new ort.Tensor("float32", Float32Array.from(values), [1, values.length]);

// Uniform and normal numbers, the same ones for the same seed: splitmix32, Box and Muller.
function generator(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x9e3779b9) >>> 0;
    let bits = state;
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad);
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97);
    return ((bits ^ (bits >>> 15)) >>> 8) / 2 ** 24;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}
