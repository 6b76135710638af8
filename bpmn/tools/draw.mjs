// Draws the models named on the command line as the Modeler shows them and prints {file: SVG} as JSON, the same
// bytes on every machine; must never need a browser or a font.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

import { JSDOM } from 'jsdom';

const PADDING = 10;

// bpmn-js draws into a DOM; jsdom is one without geometry. What is missing: matrices, transform lists, text sizes.
const short = (n) => String(Math.round(n * 100) / 100);

class Matrix {
  constructor(a = 1, b = 0, c = 0, d = 1, e = 0, f = 0) {
    Object.assign(this, { a, b, c, d, e, f });
  }
  multiply(o) {
    return new Matrix(
      this.a * o.a + this.c * o.b, this.b * o.a + this.d * o.b,
      this.a * o.c + this.c * o.d, this.b * o.c + this.d * o.d,
      this.a * o.e + this.c * o.f + this.e, this.b * o.e + this.d * o.f + this.f,
    );
  }
  toString() {
    return `matrix(${[this.a, this.b, this.c, this.d, this.e, this.f].map(short).join(' ')})`;
  }
}

class Transform {
  constructor(matrix = new Matrix()) {
    this.matrix = matrix;
  }
  setMatrix(matrix) {
    this.matrix = matrix;
  }
  setTranslate(x, y) {
    this.matrix = new Matrix(1, 0, 0, 1, x, y);
  }
  setScale(x, y) {
    this.matrix = new Matrix(x, 0, 0, y, 0, 0);
  }
  setRotate(degrees, x, y) {
    const angle = (degrees * Math.PI) / 180;
    const turn = new Matrix(Math.cos(angle), Math.sin(angle), -Math.sin(angle), Math.cos(angle), 0, 0);
    this.matrix = new Matrix(1, 0, 0, 1, x, y).multiply(turn).multiply(new Matrix(1, 0, 0, 1, -x, -y));
  }
}

class TransformList {
  #transforms = [];
  #element;
  constructor(element) {
    this.#element = element;
  }
  get numberOfItems() {
    return this.#transforms.length;
  }
  getItem(index) {
    return this.#transforms[index];
  }
  clear() {
    this.#transforms = [];
    this.#element.removeAttribute('transform');
  }
  createSVGTransformFromMatrix(matrix) {
    return new Transform(matrix);
  }
  appendItem(transform) {
    this.#transforms.push(transform);
    this.consolidate();
    return transform;
  }
  consolidate() {
    if (!this.#transforms.length) return null;
    const sum = new Transform(this.#transforms.reduce((m, t) => m.multiply(t.matrix), new Matrix()));
    this.#transforms = [sum];
    this.#element.setAttribute('transform', String(sum.matrix));
    return sum;
  }
}

// Advance widths of Helvetica, thousandths of the font size, for the characters from space to tilde.
const WIDTHS = [
  278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556,
  556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
  667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556,
  556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];

class TextRuler {
  font = '';
  measureText(text) {
    const size = Number(/([\d.]+)px/.exec(this.font)[1]);
    const width = [...text].reduce((sum, c) => sum + (WIDTHS[c.codePointAt(0) - 32] ?? 600), 0);
    return {
      width: (width * size) / 1000,
      fontBoundingBoxAscent: 0.9 * size,
      fontBoundingBoxDescent: 0.2 * size,
    };
  }
}

const { window } = new JSDOM('<!doctype html><div id="canvas"></div>');
for (const name of ['document', 'DOMParser', 'Element', 'getComputedStyle', 'Node', 'SVGElement']) {
  globalThis[name] = window[name];
}
Object.assign(globalThis, { window, SVGMatrix: Matrix });
const transforms = new WeakMap();
Object.defineProperty(window.SVGElement.prototype, 'transform', {
  get() {
    if (!transforms.has(this)) transforms.set(this, new TransformList(this));
    return { baseVal: transforms.get(this) };
  },
});
Object.assign(window.SVGSVGElement.prototype, {
  createSVGMatrix: () => new Matrix(),
  createSVGTransform: () => new Transform(),
  createSVGTransformFromMatrix: (matrix) => new Transform(matrix),
});
window.SVGElement.prototype.getBBox = () => ({ x: 0, y: 0, width: 0, height: 0 });
window.HTMLCanvasElement.prototype.getContext = () => new TextRuler();

function boundsOf(elements) {
  const points = elements.flatMap(({ waypoints, x, y, width, height }) =>
    waypoints ?? [{ x, y }, { x: x + width, y: y + height }]);
  const [xs, ys] = [points.map((p) => p.x), points.map((p) => p.y)];
  const [left, top] = [Math.min(...xs) - PADDING, Math.min(...ys) - PADDING];
  return [left, top, Math.max(...xs) + PADDING - left, Math.max(...ys) + PADDING - top].map(Math.round);
}

const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

const require = createRequire(import.meta.url);
const Viewer = require('bpmn-js/dist/bpmn-viewer.production.min.js');

async function draw(file) {
  const viewer = new Viewer({ container: window.document.getElementById('canvas') });
  const { warnings } = await viewer.importXML(await readFile(file, 'utf8'));
  if (warnings.length) throw new Error(`${file}: ${warnings.map((w) => w.message).join('; ')}`);
  const { svg } = await viewer.saveSVG();
  const root = viewer.get('canvas').getRootElement();
  const [x, y, width, height] = boundsOf(viewer.get('elementRegistry').filter((e) => e !== root));
  const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" `
    + `viewBox="${x} ${y} ${width} ${height}">\n<title>${escape(root.businessObject.name)}</title>\n`
    + `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="white"/>`;
  const markers = new Map();
  return `${svg
    .slice(svg.indexOf('<svg'))
    .replace(/<svg[^>]*>/, head)
    // what only a pointer would meet
    .replaceAll(/<(?:path|rect|circle|polyline)[^>]*class="djs-hit[^>]*\/>/g, '')
    // marker ids are the one thing that bpmn-js draws by lot
    .replaceAll(/(?<=id="|#)marker-[\w-]+/g, (id) =>
      markers.get(id) ?? markers.set(id, `marker-${markers.size + 1}`).get(id))
    .replaceAll(/\d+\.\d{3,}/g, (n) => short(Number(n)))
    .replaceAll('<g class="djs-group">', '\n<g class="djs-group">')
    .replace(/<\/svg>\s*$/, '\n</svg>')}\n`;
}

const drawings = {};
for (const file of process.argv.slice(2)) drawings[file] = await draw(file);
process.stdout.write(JSON.stringify(drawings));
