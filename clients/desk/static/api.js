// The calls to the desk. Every one that changes something goes through one queue, in order, so that
// nothing overtakes anything; `onState` hears whether all is saved.

const MARK = { "x-desk": "1" };
let last = Promise.resolve();
let waiting = 0;
let failed = false;
let onState = () => {};

export function whenSaved(listener) {
  onState = listener;
}

export const unsaved = () => waiting > 0 || failed;

async function answer(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Error("The desk does not answer. Is it still running in its terminal?");
  }
  if (!response.ok) throw new Error(await response.text());
  return response;
}

export async function read(path) {
  return (await answer(path)).json();
}

export async function readImage(n, place) {
  const response = await answer(`/api/images/${n}/pixels/${place}`);
  const head = (name) => Number(response.headers.get(name));
  const content = await response.arrayBuffer();
  const depth = head("x-depth");
  return {
    height: head("x-height"), width: head("x-width"), white: head("x-white"), depth,
    values: depth === 8 ? new Uint8Array(content) : new Uint16Array(content),
  };
}

export async function readMask(n, reader = "") {
  const response = await answer(`/api/images/${n}/outline?reader=${encodeURIComponent(reader)}`);
  return response.status === 204 ? null : new Uint8Array(await response.arrayBuffer());
}

function inOrder(run) {
  waiting += 1;
  onState("busy");
  const mine = last.then(run);
  last = mine.then(() => { failed = false; }, () => { failed = true; }).then(() => {
    waiting -= 1;
    if (!waiting) onState(failed ? "bad" : "saved");
  });
  return mine;
}

export function say(path, body = {}) {
  const options = {
    method: "POST", body: JSON.stringify(body),
    headers: { ...MARK, "content-type": "application/json" },
  };
  return inOrder(async () => (await answer(path, options)).json());
}

// `content()` is asked for when the queue comes to it: of strokes that follow fast, the last counts.
export function saveMask(n, digest, content) {
  return inOrder(async () => {
    const mask = content();
    const options = mask
      ? { method: "PUT", body: mask, headers: { ...MARK, "x-image-sha256": digest } }
      : { method: "DELETE", headers: { ...MARK, "x-image-sha256": digest } };
    return (await answer(`/api/images/${n}/outline`, options)).json();
  });
}
