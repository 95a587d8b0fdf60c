// What the page knows of cells: asking the server, keeping the next ones ready, and drawing.

const TOKEN_HEADER = "X-Grading-Token";
const MOST_AT_ONCE = 3; // a browser opens 6 connections to a host: a grade must never wait behind pictures
const KEPT = 300;

export class Client {
  constructor(token) {
    this.token = token;
  }

  // Return what the server answers, read as "json", "blob" or "arrayBuffer". Where no whole answer came, the error is
  // marked as `lost`: it says nothing of what was asked for.
  async ask(path, kind, options = {}) {
    const headers = { [TOKEN_HEADER]: this.token, ...(options.body ? { "Content-Type": "application/json" } : {}) };
    let response, content;
    try {
      response = await fetch(path, { ...options, headers });
      content = await response[response.ok ? kind : "text"]();
    } catch {
      const text = "The program does not answer. Start it again with the same command and open the new address.";
      throw Object.assign(new Error(text), { lost: true });
    }
    if (!response.ok) throw new Error(content.trim() || `error ${response.status}`);
    return content;
  }

  get(path) {
    return this.ask(path, "json");
  }

  post(path, value) {
    return this.ask(path, "json", { method: "POST", body: JSON.stringify(value) });
  }
}

export class Cells {
  constructor(client) {
    this.client = client;
    this.kept = new Map(); // row -> promise of a cell, oldest first
    this.waiting = []; // [row, start] of cells that nobody has begun to fetch
    this.running = 0;
  }

  // Return a promise of a cell; an urgent one goes before those that are only fetched ahead.
  load(row, urgent = true) {
    let promise = this.kept.get(row);
    if (!promise) {
      promise = new Promise((resolve, reject) => {
        this.waiting[urgent ? "unshift" : "push"]([row, () => this.fetch(row).then(resolve, reject)]);
      });
      promise.catch(() => this.kept.delete(row));
      this.kept.set(row, promise);
      while (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    } else if (urgent) {
      const place = this.waiting.findIndex(([waiting]) => waiting === row);
      if (place > 0) this.waiting.unshift(...this.waiting.splice(place, 1));
    }
    this.start();
    return promise;
  }

  start() {
    while (this.running < MOST_AT_ONCE && this.waiting.length) {
      const [, begin] = this.waiting.shift();
      this.running += 1;
      begin().finally(() => {
        this.running -= 1;
        this.start();
      });
    }
  }

  async fetch(row) {
    const data = await this.client.ask(`api/cell/${row}`, "arrayBuffer");
    const length = new DataView(data).getUint32(0, true);
    const cell = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const area = cell.width * cell.height;
    const plane = (index) => new Uint8Array(data, 4 + length + index * area, area);
    return { ...cell, planes: [0, 1, 2, 3].map(plane), region: plane(4) };
  }
}

export const CHANNELS = ["red", "green", "blue", "yellow"];
export const CHANNEL_MEANING = ["microtubules", "protein", "nucleus", "ER"];
export const PLAIN = {
  channels: [true, true, true, false],
  brightness: 1,
  gamma: 1,
  surroundings: "dim",
  outline: false,
  relative: false,
};
export const SURROUNDINGS = { dim: 0.3, black: 0, full: 1 };
const INSIDE = [false, true, true, false]; // region map: 0 background, 1 this cell, 2 its nucleus, 3 another cell
const COLOURS = [[1, 0, 0], [0, 1, 0], [0.15, 0.25, 1], [0.5, 0.45, 0]]; // pure blue is hard to see

function curve(look, brightness) {
  const gain = look.brightness * (look.relative ? brightness : 1);
  return Float32Array.from({ length: 256 }, (_, value) => 255 * Math.min(1, (gain * value) / 255) ** (1 / look.gamma));
}

// Draw a cell into a canvas. One channel alone is grey, since grey shows more than a colour.
export function draw(canvas, cell, look) {
  const { width, height, region } = cell;
  const on = [0, 1, 2, 3].filter((channel) => look.channels[channel]);
  const curves = on.map((channel) => curve(look, cell.brightness[channel]));
  const colours = on.map((channel) => (on.length === 1 ? [1, 1, 1] : COLOURS[channel]));
  const planes = on.map((channel) => cell.planes[channel]);
  const outside = SURROUNDINGS[look.surroundings];
  const image = new ImageData(width, height);
  const pixels = image.data;
  for (let i = 0; i < region.length; i += 1) {
    let red = 0, green = 0, blue = 0;
    for (let k = 0; k < on.length; k += 1) {
      const value = curves[k][planes[k][i]];
      red += value * colours[k][0];
      green += value * colours[k][1];
      blue += value * colours[k][2];
    }
    const weight = INSIDE[region[i]] ? 1 : outside;
    pixels[4 * i] = red * weight;
    pixels[4 * i + 1] = green * weight;
    pixels[4 * i + 2] = blue * weight;
    pixels[4 * i + 3] = 255;
  }
  if (look.outline) outline(pixels, region, width, height);
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function outline(pixels, region, width, height) {
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && INSIDE[region[y * width + x]];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if (inside(x, y) && !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1))) {
        pixels.fill(235, 4 * (y * width + x), 4 * (y * width + x) + 3);
      }
    }
  }
}
