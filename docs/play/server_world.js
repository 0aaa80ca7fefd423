// A world that `python -m worldmodels.web` runs: the dream and the game. A request at a time, a view for each.

const SIZE = 64;

export class ServerWorld {
  hasGame = true;

  static async open(run) {
    const url = new URL(`play?run=${encodeURIComponent(run.id)}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const world = new ServerWorld();
    await world.connect(url);
    return world;
  }

  connect(url) {
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) this.waiting?.resolve(viewOf(data));
      else this.fail(JSON.parse(data).error);
    };
    this.socket.onclose = () => this.fail(this.refused ?? "The server has gone.");
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.socket.onopen = resolve;
    });
  }

  fail(why) {
    this.refused = why;
    this.waiting?.reject(new Error(why));
  }

  ask(request) {
    if (this.refused) return Promise.reject(new Error(this.refused));
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.socket.send(JSON.stringify(request));
    });
  }

  begin(seed) { return this.ask({ do: "begin", seed }); }
  wake() { return this.ask({ do: "wake" }); }
  look(z) { return this.ask({ do: "look", z: [...z] }); }

  step({ actor, action, temperature, z }) {
    return this.ask({ do: "step", actor, action: [...action], temperature, z: z && [...z] });
  }

  close() {
    this.socket.onclose = null;
    this.fail("This world is closed.");
    this.socket.close();
  }
}

// A message: the length of the facts, the facts as JSON, and RGB pictures (worldmodels/web/session.py, packed).
function viewOf(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const pictures = {};
  facts.pictures.forEach((name, i) => {
    const rgb = new Uint8Array(buffer, 4 + length + i * SIZE * SIZE * 3, SIZE * SIZE * 3);
    pictures[name] = imageOf(rgb);
  });
  return { ...facts, pictures, z: facts.z && Float32Array.from(facts.z) };
}

// [64 * 64 * 3] RGB -> a picture to be drawn on a canvas.
export function imageOf(rgb) {
  const image = new ImageData(SIZE, SIZE);
  for (let i = 0; i < SIZE * SIZE; i++) {
    image.data.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  return image;
}
