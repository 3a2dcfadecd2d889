// The image: window and level, zoom and pan. What is drawn over it comes from `overlay`, and what the
// left button does from `tool`, where there is one.

const STEP = 1.0015;

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.image = null;
    this.bitmap = new OffscreenCanvas(1, 1);
    this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.overlay = () => {};
    this.tool = null;
    this.changed = () => {};
    this.held = false; // the space bar moves the image whatever the tool
    this.queued = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointermove", (event) => this.tool?.hover(this.at(event)));
    canvas.addEventListener("pointerleave", () => this.tool?.hover(null));
    canvas.addEventListener("dblclick", () => (this.tool ? this.tool.twice() : this.fit()));
  }

  show(image, { keep = false } = {}) {
    const same = this.image?.width === image.width && this.image?.height === image.height;
    const white = this.image?.white;
    this.image = image;
    this.bitmap = new OffscreenCanvas(image.width, image.height);
    if (white !== image.white) this.resetWindow();
    this.paint();
    if (!(keep && same)) this.fit();
  }

  resetWindow() {
    this.window = this.image.white;
    this.level = this.image.white / 2;
    this.paint();
  }

  setWindow(level, window) {
    const white = this.image.white;
    this.level = Math.max(0, Math.min(white, level));
    this.window = Math.max(white / 255, Math.min(2 * white, window));
    this.paint();
  }

  // Grey levels to bytes, by a table.
  paint() {
    const { values, width, height, white } = this.image;
    const table = new Uint32Array(this.image.depth === 8 ? 256 : 65536);
    const low = this.level - this.window / 2;
    for (let v = 0; v < table.length; v++) {
      const grey = Math.max(0, Math.min(255, Math.round(((v - low) / this.window) * 255)));
      table[v] = (255 << 24) | (grey << 16) | (grey << 8) | grey;
    }
    const data = new ImageData(width, height);
    const words = new Uint32Array(data.data.buffer);
    for (let i = 0; i < values.length; i++) words[i] = table[values[i]];
    this.bitmap.getContext("2d").putImageData(data, 0, 0);
    this.draw();
    this.changed({ level: this.level, window: this.window, white });
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.fitted) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.image) return;
    const { clientWidth: w, clientHeight: h } = this.canvas;
    this.scale = Math.min((w - 24) / this.image.width, (h - 24) / this.image.height);
    this.x = (w - this.image.width * this.scale) / 2;
    this.y = (h - this.image.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.max(0.05, Math.min(40, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - box.left - this.x) / this.scale, y: (event.clientY - box.top - this.y) / this.scale };
  }

  wheel(event) {
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const step = event.deltaMode ? event.deltaY * 40 : event.deltaY;
    this.zoom(STEP ** -step, event.clientX - box.left, event.clientY - box.top);
  }

  press(event) {
    if (!this.image) return;
    this.canvas.setPointerCapture(event.pointerId);
    const drawing = event.button === 0 && this.tool && !this.held;
    const start = { x: event.clientX, y: event.clientY, left: this.x, top: this.y, level: this.level, window: this.window };
    if (drawing) this.tool.down(this.at(event), event);
    const move = (next) => {
      const dx = next.clientX - start.x, dy = next.clientY - start.y;
      if (drawing) this.tool.drag(this.at(next), next);
      else if (event.button === 2) {
        const unit = this.image.white / 500;
        this.setWindow(start.level + dy * unit, start.window + dx * unit);
      } else {
        [this.x, this.y] = [start.left + dx, start.top + dy];
        this.fitted = false;
        this.draw();
      }
    };
    const up = (end) => {
      this.canvas.removeEventListener("pointermove", move);
      this.canvas.removeEventListener("pointerup", up);
      this.canvas.removeEventListener("pointercancel", up);
      if (drawing) this.tool.up(this.at(end), end);
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", up);
    this.canvas.addEventListener("pointercancel", up);
  }

  draw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { context, canvas } = this, ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    context.imageSmoothingEnabled = this.scale < 6; // further in, the pixels themselves are of interest
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, 0, 0);
    this.overlay(context, this.scale);
  }
}
