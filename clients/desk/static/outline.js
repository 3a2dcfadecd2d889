// Drawing an outline: polygon (clicked or drawn around), brush, eraser. It knows no server; `saved` is
// called after each finished stroke.

import { Mask, colour } from "/static/mask.js";

const NEAR = 9; // screen pixels within which a click on the first point closes the polygon

export class Outliner {
  constructor(viewer, classes) {
    this.viewer = viewer;
    this.classes = Math.max(classes, 1);
    this.tool = "move";
    this.value = 1;
    this.radius = 6;
    this.points = [];
    this.pointer = null;
    this.mask = null;
    this.hidden = false;
    this.others = [];
    this.saved = () => {};
    viewer.overlay = (context, scale) => this.paint(context, scale);
  }

  take(mask) {
    this.mask = mask;
    this.points = [];
    this.redo();
  }

  choose(tool) {
    this.tool = tool;
    this.points = [];
    this.viewer.tool = tool === "move" || !this.mask ? null : this;
    this.viewer.canvas.style.cursor = tool === "move" ? "grab" : "crosshair";
    this.viewer.draw();
  }

  // Other readers' outlines, each with its own colour.
  compare(masks) {
    this.others = masks.map(({ mask, colour: tint }) => ({
      tint, paths: Array.from({ length: this.classes }, (_, i) => mask.contour(i + 1)),
    }));
    this.viewer.draw();
  }

  redo() {
    const { mask } = this;
    this.paths = mask ? Array.from({ length: this.classes }, (_, i) => mask.contour(i + 1)) : [];
    this.veil = mask ? mask.veil(this.classes) : null;
    this.viewer.draw();
  }

  finish(undone = false) {
    this.redo();
    this.saved(undone);
  }

  undo() {
    if (this.points.length) {
      this.points.pop();
      this.viewer.draw();
      return "point";
    }
    if (!this.mask?.back()) return "";
    this.finish(true);
    return "stroke";
  }

  clear(exists) {
    if (!this.mask) return;
    this.mask.remember();
    this.mask.clear(exists);
    this.points = [];
    this.finish();
  }

  hover(point) {
    this.pointer = point;
    this.viewer.draw();
  }

  down(point, event) {
    if (this.tool === "polygon") {
      const first = this.points[0];
      const near = first && Math.hypot(point.x - first.x, point.y - first.y) * this.viewer.scale < NEAR;
      if (near && this.points.length > 2) this.close(event.altKey);
      else this.points.push(point);
    } else {
      this.mask.remember();
      this.stroke(point, point, event);
    }
    this.last = point;
    this.viewer.draw();
  }

  drag(point, event) {
    this.pointer = point;
    if (this.tool !== "polygon") this.stroke(this.last, point, event);
    else if (this.points.length && Math.hypot(point.x - this.last.x, point.y - this.last.y) * this.viewer.scale > 4) {
      this.points.push(point);
    } else return;
    this.last = point;
    this.viewer.draw();
  }

  up() {
    if (this.tool !== "polygon") this.finish();
  }

  twice() {
    // The second click of a double click has set a point of its own.
    if (this.tool === "polygon" && this.points.length > 3) {
      this.points.pop();
      this.close(false);
    }
  }

  stroke(from, to, event) {
    const erase = this.tool === "eraser" || event.altKey;
    this.mask.line(from, to, this.radius, erase ? 0 : this.value);
    this.veil = this.mask.veil(this.classes);
    this.paths = [];
  }

  close(erase) {
    if (this.points.length < 3) return false;
    this.mask.remember();
    this.mask.polygon(this.points, erase ? 0 : this.value);
    this.points = [];
    this.finish();
    return true;
  }

  cancel() {
    const had = this.points.length > 0;
    this.points = [];
    this.viewer.draw();
    return had;
  }

  paint(context, scale) {
    context.lineJoin = context.lineCap = "round";
    if (this.hidden) return;
    for (const { tint, paths } of this.others) this.lines(context, scale, paths, () => tint);
    if (!this.mask) return;
    if (this.veil && !this.others.length) {
      context.imageSmoothingEnabled = true;
      context.drawImage(this.veil, 0, 0);
    }
    if (!this.others.length) this.lines(context, scale, this.paths, (i) => colour(i + 1));
    this.paintTool(context, scale);
  }

  lines(context, scale, paths, tint) {
    paths.forEach((path, i) => {
      context.strokeStyle = "rgb(0 0 0 / .55)";
      context.lineWidth = 3.4 / scale;
      context.stroke(path);
      context.strokeStyle = tint(i);
      context.lineWidth = 1.7 / scale;
      context.stroke(path);
    });
  }

  paintTool(context, scale) {
    const tint = colour(this.value);
    if (this.points.length) {
      const path = new Path2D();
      this.points.forEach((p, i) => (i ? path.lineTo(p.x, p.y) : path.moveTo(p.x, p.y)));
      if (this.pointer) path.lineTo(this.pointer.x, this.pointer.y);
      this.lines(context, scale, [path], () => tint);
      context.fillStyle = tint;
      const ends = this.points.length > 60 ? [this.points[0]] : this.points;
      for (const p of ends) {
        context.beginPath();
        context.arc(p.x, p.y, (p === this.points[0] ? 5 : 3) / scale, 0, 7);
        context.fill();
      }
    }
    if (this.pointer && (this.tool === "brush" || this.tool === "eraser") && this.viewer.tool) {
      context.beginPath();
      context.arc(this.pointer.x, this.pointer.y, this.radius, 0, 7);
      context.strokeStyle = this.tool === "eraser" ? "#fff" : tint;
      context.lineWidth = 1.4 / scale;
      context.stroke();
    }
  }
}

export { Mask };
