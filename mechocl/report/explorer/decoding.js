// Arrays of the page: base64 → bytes → inflated → numbers of 16 bits → Float32Array.

/** @typedef {{data: Float32Array, shape: number[]}} NumberArray Numbers in row-major order. */

const KEPT_MODELS = 8;

/** @type {Map<string, Promise<any>>} The last loaded models, oldest first. */
const keptModels = new Map();

/** @type {Float32Array | null} */
let halves = null;

/** Every number of half precision, by its 16 bits. @returns {Float32Array} */
function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits += 1) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) halves[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
    else halves[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return halves;
}

/** What was loaded under this name before, or is loaded now. What fails is not kept.
 * @param {string} name @param {(name: string) => Promise<any>} load @returns {Promise<any>} */
function keptModel(name, load) {
  const found = keptModels.get(name) || load(name);
  keptModels.delete(name);
  keptModels.set(name, found);
  found.catch(() => keptModels.delete(name));
  if (keptModels.size > KEPT_MODELS) keptModels.delete(keptModels.keys().next().value);
  return found;
}

/** The arrays in a packed text. @param {string} text @param {Record<string, number[]>} shapes @returns {Promise<Record<string, NumberArray>>} */
async function decodeChunk(text, shapes) {
  const packed = atob(text);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const table = halfTable(), half = planes.length / 2;
  const numbers = new Float32Array(half);
  for (let i = 0; i < half; i += 1) numbers[i] = table[(planes[i] << 8) | planes[half + i]];
  /** @type {Record<string, NumberArray>} */
  const arrays = {};
  let start = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const size = shape.reduce((product, length) => product * length, 1);
    arrays[name] = { data: numbers.subarray(start, start + size), shape };
    start += size;
  }
  return arrays;
}

/** The part of an array at these first indices. @param {NumberArray} array @param {...number} indices @returns {Float32Array} */
function part(array, ...indices) {
  let start = 0, size = array.data.length;
  indices.forEach((index, axis) => { size /= array.shape[axis]; start += index * size; });
  return array.data.subarray(start, start + size);
}

/** The attention of a query to each key that it sees. @param {Float32Array} triangle @param {number} query @returns {Float32Array} */
function patternRow(triangle, query) {
  const start = (query * (query + 1)) / 2;
  return triangle.subarray(start, start + query + 1);
}
