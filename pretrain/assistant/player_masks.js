// Masks of the player: fetched in windows of frames, kept for a bounded number of frames, and painted into a picture.

const WINDOW = 32;  // frames asked for at once
const KEPT = 256;  // frames whose masks are kept

class Masks {
  // load: (first, stop) -> {frame: {object: run lengths}}; changed: called when masks have come; failed: with an error.
  constructor(load, changed, failed) {
    Object.assign(this, { load, changed, failed });
    this.clear();
  }

  clear() {
    this.frames = new Map();
    this.asked = new Set();
    this.age = (this.age || 0) + 1;
  }

  // The masks of a frame by object; undefined if they are not here yet, and then they are fetched.
  at(frame) {
    const found = this.frames.get(frame);
    if (!this.frames.has(frame + WINDOW / 2)) this.fetch(frame + WINDOW / 2);
    if (found === undefined) this.fetch(frame);
    return found;
  }

  async fetch(frame) {
    const first = Math.floor(frame / WINDOW) * WINDOW, age = this.age;
    if (this.asked.has(first) || this.frames.has(frame)) return;
    this.asked.add(first);
    try {
      const found = await this.load(first, first + WINDOW);
      if (age !== this.age) return;
      for (let i = first; i < first + WINDOW; i++) this.frames.set(i, found[i] || {});
      for (const old of this.frames.keys()) {
        if (this.frames.size <= KEPT) break;
        this.frames.delete(old);
      }
      this.changed();
    } catch (error) {
      this.failed(error);
    } finally {
      if (age === this.age) this.asked.delete(first);
    }
  }
}

const light = (part) => Math.round(0.3 * part + 0.7 * 255);  // of a rim, which is seen on things of the same colour

// An ImageData of the masks: run lengths column by column from a run outside, objects as {id, colour, visible}.
function paint(context, masks, objects, width, height) {
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (const object of objects) {
    const runs = masks[object.id];
    if (!runs || !object.visible) continue;
    const inside = new Uint8Array(width * height);  // column by column
    let at = 0;
    runs.forEach((length, i) => {
      if (i % 2) inside.fill(1, at, at + length);
      at += length;
    });
    const [r, g, b] = object.colour, rim = Math.max(1, Math.round(Math.max(width, height) / 500));
    const body = (0x70 << 24) | (b << 16) | (g << 8) | r, edge = (0xff << 24) | (light(b) << 16) | (light(g) << 8) | light(r);
    at = 0;
    runs.forEach((length, i) => {
      if (i % 2) {
        for (let p = at; p < at + length; p++) {
          const x = Math.floor(p / height), y = p - x * height;
          const whole = x >= rim && x + rim < width && y >= rim && y + rim < height &&
            inside[p - rim * height] && inside[p + rim * height] && inside[p - rim] && inside[p + rim];
          pixels[y * width + x] = whole ? body : edge;
        }
      }
      at += length;
    });
  }
  return image;
}
