// The page: what is shown, and who acts. It knows a world by open, begin, wake, step, look and close (README.md).

const WORLDS = {
  server: async () => (await import("./server_world.js")).ServerWorld,
  onnx: async () => (await import("./onnx_world.js")).OnnxWorld,
};
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
               a: "left", d: "right", w: "up", s: "down" };
const SIGNS = { left: "◀", right: "▶", up: "▲", down: "▼" };
const GAMES = { car_racing: "CarRacing", take_cover: "TakeCover" };
const STEERING = { car_racing: { up: "gas", down: "brake" } };
const Z_RANGE = 4;                      // of the sliders: V keeps z near a standard normal distribution

const $ = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

let runs, run, World, world, view;
let paused = false;
let asked = null;                       // what the visitor asked for, done before the next step: (world) => view
const held = new Set();                 // steering keys that are down
const moved = new Map();                // numbers of z that the visitor holds, by their place

// ---- what is shown

function show(next) {
  view = { ...view, ...next, pictures: { ...view?.pictures, ...next.pictures } };
  for (const [name, picture] of Object.entries(next.pictures)) $(name).getContext("2d").putImageData(picture, 0, 0);
  if (next.dream) {
    $("dream-status").textContent = statusOf(view.dream);
    if (view.game) $("game-status").textContent = statusOf(view.game);
    showEnd();
  }
  if (next.action) showAction(next.action);
  if (next.z) showLatent(next.z);
}

function statusOf({ return: score, terminated, truncated }) {
  const end = terminated ? (run.survival ? ", died" : ", ended") : truncated ? ", time over" : "";
  return (run.survival ? `${(score / run.fps).toFixed(1)} s` : `${Math.round(score)} points`) + end;
}

const over = (episode) => episode.terminated || episode.truncated;

function showEnd() {
  $("over").hidden = !over(view.dream);
  if ($("over").hidden) return;
  const { return: score, terminated } = view.dream;
  const got = run.survival ? `${(score / run.fps).toFixed(1)} seconds` : `${Math.round(score)} points`;
  const died = terminated && run.survival;
  $("over-text").textContent = died ? `The dream is over: hit after ${got}.`
    : terminated ? `The dream is over, with ${got}.` : `Time is over: ${got}.`;
}

function showAction(action) {
  [...$("actions").querySelectorAll(".bar i")].forEach((bar, i) => {
    const share = (value) => 100 * (value - run.low[i]) / (run.high[i] - run.low[i]);
    const [zero, now] = [share(clamp(0, run.low[i], run.high[i])), share(action[i])];
    bar.style.left = `${Math.min(zero, now)}%`;
    bar.style.width = `${Math.max(1.5, Math.abs(now - zero))}%`;
  });
}

function showLatent(z) {
  [...$("sliders").querySelectorAll("input")].forEach((slider, i) => { if (!moved.has(i)) slider.value = z[i]; });
}

// ---- a run is chosen

function build() {
  const directions = Object.keys(run.keys);
  const named = (name) => STEERING[run.task]?.[name] ?? name;
  $("pad").classList.toggle("flat", !directions.includes("up") && !directions.includes("down"));
  $("pad").replaceChildren(...directions.map((name) => {
    const button = document.createElement("button");
    button.textContent = SIGNS[name];
    button.style.gridArea = name;
    button.dataset.key = name;
    button.setAttribute("aria-label", named(name));
    for (const [event, act] of Object.entries({ pointerdown: press, pointerup: release, pointercancel: release }))
      button.addEventListener(event, (e) => { e.preventDefault(); act(name, button, e); });
    button.addEventListener("contextmenu", (e) => e.preventDefault());
    return button;
  }));
  $("actions").replaceChildren(...run.low.map((_, i) => {
    const row = document.createElement("div");
    row.className = "action";
    const label = document.createElement("span");
    label.textContent = directions.filter((name) => run.keys[name][i]).map(named).join(" / ") || `action ${i + 1}`;
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.append(document.createElement("i"));
    row.append(label, bar);
    return row;
  }));
  $("sliders").replaceChildren(...Array.from({ length: run.z_size }, (_, i) => {
    const label = document.createElement("label"), slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: -Z_RANGE, max: Z_RANGE, step: 0.05, value: 0 });
    slider.setAttribute("aria-label", `number ${i + 1} of z`);
    slider.addEventListener("input", () => {
      moved.set(i, Number(slider.value));
      if (paused) asked = (w) => w.look(latent());
    });
    slider.addEventListener("change", () => { if (!paused) moved.delete(i); });
    label.append(String(i + 1), slider);
    return label;
  }));
  $("z-size").textContent = run.z_size;
  setTau(run.temperature);
  $("speed").value = Math.round(run.fps / run.repeat);
  showSpeed();
  for (const radio of document.querySelectorAll("[name=actor]")) radio.disabled = radio.value !== "you" && !run.controller;
  if (!run.controller) setActor("you");
}

let wanted;                             // the run that was chosen last

async function open(id) {
  wanted = id;
  world?.close();
  world = view = undefined;
  run = runs.find((entry) => entry.id === id) ?? runs[0];
  $("run").value = run.id;
  moved.clear();
  held.clear();
  build();
  $("loading").hidden = false;
  const opened = await World.open(run);
  if (id !== wanted) return opened.close();             // another run has been chosen meanwhile
  world = opened;
  for (const name of ["game-panel", "kept-panel", "wake", "from-game", "sees-game", "space-key"])
    $(name).hidden = !world.hasGame;
  $("no-game").hidden = world.hasGame;
  $("stage").classList.toggle("alone", !world.hasGame);
  $("message").hidden = $("loading").hidden = true;
  asked = (w) => w.begin(seed());
}

// ---- who acts

const actor = () => document.querySelector("[name=actor]:checked").value;
const seed = () => clamp(Math.round(Number($("seed").value)) || 0, 0, 1000000);
const rate = () => Number($("speed").value);

function setActor(name) { document.querySelector(`[name=actor][value=${name}]`).checked = true; }

function press(name, button, event) {
  if (event.pointerId !== undefined) button.setPointerCapture(event.pointerId);
  held.add(name);
  setActor("you");
  mark();
}

function release(name) {
  held.delete(name);
  mark();
}

function mark() {
  for (const button of $("pad").children) button.classList.toggle("held", held.has(button.dataset.key));
}

function action() {
  return run.low.map((low, i) =>
    clamp([...held].reduce((sum, name) => sum + run.keys[name][i], 0), low, run.high[i]));
}

// z of the dream with what the visitor holds; null where that is nothing.
function latent() {
  if (!moved.size) return null;
  const z = view.z.slice();
  for (const [i, value] of moved) z[i] = value;
  return z;
}

// ---- the loop: one step asked for at a time, so that a slow world slows the picture and nothing piles up

async function turn() {
  const mine = world;
  if (!mine) return;
  try {
    const next = await answer(mine);
    if (next && mine === world) show(next);
  } catch (error) {
    if (mine === world) throw error;                    // else another run has been chosen meanwhile
  }
}

async function answer(mine) {
  if (asked) {
    const ask = asked;
    asked = null;
    return ask(mine);
  }
  if (!view || paused || document.hidden || (over(view.dream) && (!view.game || over(view.game)))) return null;
  const next = await mine.step({ actor: actor(), action: action(), temperature: Number($("tau").value), z: latent() });
  if (!document.activeElement?.closest("#sliders")) moved.clear();
  return next;
}

async function loop() {
  for (;;) {
    const due = performance.now() + 1000 / rate();
    try {
      await turn();
    } catch (error) {
      fail(error);
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
  }
}

function fail(error) {
  world?.close();
  world = undefined;
  $("message-text").textContent = error.message;
  $("message").hidden = false;
  $("loading").hidden = true;
}

// ---- controls

function setTau(value) {
  $("tau").value = clamp(value, 0.05, 2);
  $("tau-value").textContent = Number($("tau").value).toFixed(2);
}

const showSpeed = () => { $("speed-value").textContent = `${rate()} steps a second`; };

function setPaused(value) {
  paused = value;
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", paused);
}

function newEpisode() {
  $("seed").value = seed() + 1;
  restart();
}

function restart() {
  moved.clear();
  setPaused(false);
  asked = (w) => w.begin(seed());
}

const wake = () => { if (world?.hasGame) asked = (w) => w.wake(); };
const tryOpen = (id) => open(id).catch(fail);

$("tau").addEventListener("input", () => setTau(Number($("tau").value)));
$("speed").addEventListener("input", showSpeed);
$("pause").addEventListener("click", () => setPaused(!paused));
$("begin").addEventListener("click", newEpisode);
$("again").addEventListener("click", newEpisode);
$("wake").addEventListener("click", wake);
$("from-game").addEventListener("click", wake);
$("seed").addEventListener("change", restart);
$("run").addEventListener("change", () => tryOpen($("run").value));
$("retry").addEventListener("click", () => tryOpen(run?.id));

const COMMANDS = {
  p: () => setPaused(!paused), n: newEpisode, " ": wake,
  "+": () => setTau(Number($("tau").value) + 0.05), "=": () => setTau(Number($("tau").value) + 0.05),
  "-": () => setTau(Number($("tau").value) - 0.05),
  c: () => {
    const names = [...document.querySelectorAll("[name=actor]")]
      .filter((radio) => !radio.disabled && !radio.parentElement.hidden).map((radio) => radio.value);
    setActor(names[(names.indexOf(actor()) + 1) % names.length]);
  },
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, [type=number], #sliders input, summary"))
    return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const name = KEYS[key];
  if (run?.keys[name]) press(name, null, {});
  else if (COMMANDS[key] && !(key === " " && event.target.matches("button, [type=radio]"))) COMMANDS[key]();
  else return;
  event.preventDefault();
});
addEventListener("keyup", (event) => release(KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]));
addEventListener("blur", () => { held.clear(); mark(); });

async function begin() {
  const answer = await fetch("runs.json");
  if (!answer.ok) throw new Error("There is no runs.json beside this page: `make play` makes it.");
  const { backend, runs: found } = await answer.json();
  runs = found;
  World = await WORLDS[backend]();
  $("run").replaceChildren(...runs.map(({ id, task, memory }) => {
    const [, ...name] = id.split("/");
    return new Option(`${GAMES[task] ?? task}: ${name.join(", ")} (M: ${memory})`, id);
  }));
  await open(new URLSearchParams(location.search).get("run"));
}

begin().catch(fail);
loop();
