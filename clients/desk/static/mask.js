// A mask: one byte a pixel, 0 background, k class k. Painting, polygons, and the line around it.

const HISTORY_BYTES = 64 * 2 ** 20;
export const COLOURS = [[255, 196, 0], [0, 200, 255], [255, 90, 200], [140, 255, 90]];
export const colour = (k, alpha = 1) => `rgb(${COLOURS[(k - 1) % COLOURS.length].join(" ")} / ${alpha})`;

export class Mask {
  constructor(height, width, values = null) {
    this.height = height;
    this.width = width;
    this.values = values ?? new Uint8Array(height * width);
    this.exists = values !== null; // an empty mask says "nothing here"; none says nothing
    this.history = [];
  }

  remember() {
    this.history.push([this.values.slice(), this.exists]);
    while (this.history.length > 1 && this.history.length * this.values.length > HISTORY_BYTES) {
      this.history.shift();
    }
  }

  back() {
    const before = this.history.pop();
    if (before) [this.values, this.exists] = before;
    return Boolean(before);
  }

  clear(exists) {
    this.values = new Uint8Array(this.height * this.width);
    this.exists = exists;
  }

  // All pixels whose centre lies within the radius of the line from a to b.
  line(a, b, radius, value) {
    const dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
    const left = Math.max(0, Math.floor(Math.min(a.x, b.x) - radius));
    const right = Math.min(this.width - 1, Math.ceil(Math.max(a.x, b.x) + radius));
    const top = Math.max(0, Math.floor(Math.min(a.y, b.y) - radius));
    const bottom = Math.min(this.height - 1, Math.ceil(Math.max(a.y, b.y) + radius));
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - a.x, py = y + 0.5 - a.y;
        const t = length ? Math.max(0, Math.min(1, (px * dx + py * dy) / length)) : 0;
        if (Math.hypot(px - t * dx, py - t * dy) <= radius) this.values[y * this.width + x] = value;
      }
    }
    this.exists = true;
  }

  // All pixels whose centre lies inside the polygon (even-odd).
  polygon(points, value) {
    for (let y = 0; y < this.height; y++) {
      const crossings = [];
      points.forEach((a, i) => {
        const b = points[(i + 1) % points.length], middle = y + 0.5;
        if ((a.y <= middle) !== (b.y <= middle)) {
          crossings.push(a.x + ((middle - a.y) / (b.y - a.y)) * (b.x - a.x));
        }
      });
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) {
        const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
        const to = Math.min(this.width - 1, Math.ceil(crossings[i + 1] - 0.5) - 1);
        for (let x = from; x <= to; x++) this.values[y * this.width + x] = value;
      }
    }
    this.exists = true;
  }

  area(value) {
    let count = 0;
    for (const v of this.values) count += v === value;
    return count;
  }

  // The line around a class, between pixel centres (marching squares), in image pixels.
  contour(value) {
    const path = new Path2D(), { width: w, height: h, values } = this;
    const inside = (x, y) => x >= 0 && y >= 0 && x < w && y < h && values[y * w + x] === value;
    const segment = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
    const rows = this.rows(value);
    if (!rows) return path;
    for (let y = rows[0] - 1; y <= rows[1]; y++) {
      for (let x = -1; x < w; x++) {
        const kind = inside(x, y) + 2 * inside(x + 1, y) + 4 * inside(x + 1, y + 1) + 8 * inside(x, y + 1);
        if (kind === 0 || kind === 15) continue;
        const top = [x + 1, y + 0.5], right = [x + 1.5, y + 1], bottom = [x + 1, y + 1.5], left = [x + 0.5, y + 1];
        const corner = kind > 7 ? 15 - kind : kind;
        if (corner === 1 || kind === 5 || kind === 10) segment(...left, ...(kind === 10 ? bottom : top));
        if (corner === 2 || kind === 10) segment(...top, ...right);
        if (corner === 4 || kind === 5) segment(...right, ...bottom);
        if (corner === 7) segment(...left, ...bottom);
        if (corner === 3) segment(...left, ...right);
        if (corner === 6) segment(...top, ...bottom);
      }
    }
    return path;
  }

  rows(value) {
    const first = this.values.indexOf(value), last = this.values.lastIndexOf(value);
    return first < 0 ? null : [Math.floor(first / this.width), Math.floor(last / this.width)];
  }

  // A thin veil over what is inside.
  veil(classes) {
    const canvas = new OffscreenCanvas(this.width, this.height);
    const image = new ImageData(this.width, this.height);
    const words = new Uint32Array(image.data.buffer);
    const tints = [0];
    for (let k = 1; k <= classes; k++) {
      const [r, g, b] = COLOURS[(k - 1) % COLOURS.length];
      tints.push((36 << 24) | (b << 16) | (g << 8) | r);
    }
    for (let i = 0; i < this.values.length; i++) words[i] = tints[this.values[i]];
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
}
