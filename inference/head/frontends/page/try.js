// The form that tries a prediction: a line for each feature of the model, a column for each candidate row. It posts to
// v1/predict what `ringpull predict` would send, and shows the outputs, or the error in words.
"use strict";

const MAX_ROWS = 8;
const INTEGER = /^[+-]?\d+$/;

let formRows = 3;
const remembered = new Map(); // feature's name -> what was typed for it, as long as this page is open

function offerModels() {
  const names = models().filter((model) => model.outputs.length).map((model) => model.name);
  choices($("try-model"), names, (name) => name, $("try-model").value);
  drawForm(tried());
}

function tried() {
  return models().find((model) => model.name === $("try-model").value);
}

// Lines whose feature is still the same stay as they are, in whatever version; of the others, what still fits.
function drawForm(model) {
  const sending = $("try").classList.contains("sending");
  $("try").querySelector("button.main").disabled = !model || sending;
  $("try-more").disabled = !model || formRows === MAX_ROWS;
  $("try-fewer").disabled = !model || formRows === 1;
  const there = [...$("try-features").rows].filter((line) => line.dataset.feature);
  for (const line of there) remembered.set(line.dataset.name, typedIn(line));
  const titles = model ? ["feature", "one for all", ...Array.from({ length: formRows }, (_, row) => `row ${row + 1}`)] : [];
  renew($("try-head"), node("tr", {}, ...titles.map((title) => node("th", { scope: "col" }, title))));
  const lines = !model
    ? [node("tr", {}, node("td", { class: "none" }, "No model that can be asked is served."))]
    : model.features.map((feature, place) => {
        const as = JSON.stringify([feature, formRows]);
        return there.find((line) => line.dataset.feature === as) || featureLine(feature, place, as);
      });
  for (const line of [...$("try-features").rows]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, place) => {
    // One that is where it belongs is not moved: it may be the one that has the focus.
    if ($("try-features").rows[place] !== line) $("try-features").insertBefore(line, $("try-features").rows[place] || null);
  });
}

function typedIn(line) {
  const old = remembered.get(line.dataset.name);
  const values = [...line.querySelectorAll("input.value")].map((input) => input.value);
  const hidden = old && old.kind === line.dataset.kind ? old.values.slice(values.length) : [];
  return { kind: line.dataset.kind, shared: line.querySelector("input[type=checkbox]").checked, values: [...values, ...hidden] };
}

function featureLine(feature, place, as) {
  const last = remembered.get(feature.name);
  const fits = last && last.kind === kind(feature) ? last : null;
  const shared = node("input", { type: "checkbox", "aria-label": `${feature.name}: one for all rows` });
  shared.checked = fits ? fits.shared : place === 0 && !feature.many;
  const name = node("th", { scope: "row", class: "name" }, feature.name, " ", node("span", { class: "tag" }, kind(feature) + (feature.optional ? ", optional" : "")));
  const line = node("tr", { "data-feature": as, "data-name": feature.name, "data-kind": kind(feature) }, name, node("td", {}, shared));
  const draw = (kept) => {
    while (line.cells.length > 2) line.deleteCell(2);
    for (let row = 0; row < (shared.checked ? 1 : formRows); row++) line.append(node("td", shared.checked ? { colspan: formRows } : {}, valueInput(feature, row, shared.checked, kept[row])));
  };
  shared.addEventListener("change", () => {
    remembered.set(feature.name, typedIn(line));
    draw(remembered.get(feature.name).values);
  });
  draw(fits ? fits.values : []);
  return line;
}

function valueInput(feature, row, shared, kept) {
  const input = node("input", { class: "value", type: "text", spellcheck: "false", "aria-label": shared ? `${feature.name}, all rows` : `${feature.name}, row ${row + 1}` });
  input.value = kept ?? example(feature, row);
  if (feature.optional) input.placeholder = "none";
  input.addEventListener("input", () => input.removeAttribute("aria-invalid"));
  return input;
}

function kind(feature) {
  const names = { INT64: "int64", UINT64: "uint64", FLOAT32: "float32", STRING: "string" };
  const width = feature.width > 1 ? ` × ${feature.width}` : "";
  return `${names[feature.dtype] || "?"}${feature.many ? " list" : ""}${width}${feature.weighted ? ", weighted" : ""}`;
}

function example(feature, row) {
  const one = (place) => ({ FLOAT32: "0.5", STRING: "a" })[feature.dtype] || String(row + place + 1);
  const values = Array.from({ length: feature.many ? 2 : feature.width || 1 }, (_, place) => one(place));
  return values.map((value, place) => (feature.weighted ? `${value}:${["1", "0.5"][place]}` : value)).join(", ");
}

// -- from what was typed to a request ----------------------------------------------------------------------------------

class Wrong extends Error {
  constructor(input, message) {
    super(message);
    this.input = input;
  }
}

// JSON with integers as they were typed: those beyond 2^53 are no numbers of this language. NaN is taken, too.
function json(value) {
  if (typeof value === "bigint" || Number.isNaN(value)) return value.toString();
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${json(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function typed(feature, text, input) {
  if (feature.dtype === "STRING") return typedText(feature, text, input);
  const bare = text.trim();
  if (feature.dtype === "FLOAT32") {
    if (bare && Number.isFinite(Number(bare))) return Number(bare);
    throw new Wrong(input, `${feature.name}: ${bare ? `“${bare}”` : "nothing"} is not a number`);
  }
  if (INTEGER.test(bare)) return BigInt(bare);
  throw new Wrong(input, `${feature.name}: ${bare ? `“${bare}”` : "nothing"} is not a whole number`);
}

function typedText(feature, text, input) {
  if (!text.trim()) throw new Wrong(input, `${feature.name}: nothing; a text that is empty, or has spaces alone, goes in quotes: ""`);
  if (!text.trim().startsWith('"')) return text;
  try {
    return JSON.parse(text.trim());
  } catch {
    throw new Wrong(input, `${feature.name}: ${text.trim()} is no text in quotes; within them, \\" is a quote and \\\\ a backslash`);
  }
}

// What stands between commas that are not within quotes, without the spaces around it.
function listed(text) {
  const parts = [""];
  for (const piece of text.match(/"(?:\\.|[^"\\])*"|,|[^",]+|"/g) || []) {
    if (piece === ",") parts.push("");
    else parts[parts.length - 1] += piece;
  }
  return text.trim() ? parts.map((part) => part.trim()) : [];
}

// A value and its weight. Text that has a colon and no number behind it has no weight.
function weighed(feature, part) {
  const quoted = part.match(/^("(?:\\.|[^"\\])*")\s*(?::(.*))?$/);
  if (quoted) return [quoted[1], quoted[2] ?? "1"];
  const colon = part.lastIndexOf(":");
  const weight = part.slice(colon + 1).trim();
  if (colon < 0 || (feature.dtype === "STRING" && (!weight || !Number.isFinite(Number(weight))))) return [part, "1"];
  return [part.slice(0, colon).trim(), weight];
}

function cell(feature, input) {
  const text = input.value;
  const width = feature.width || 1;
  if (!feature.many && feature.optional && !text.trim()) return { values: Array(width).fill(nothing(feature, input)) };
  if (!feature.many && width === 1) return { values: [typed(feature, text, input)] };
  const parts = listed(text);
  if (!feature.many && parts.length !== width) throw new Wrong(input, `${feature.name}: ${parts.length} numbers; it takes ${width}, separated by commas`);
  const halves = parts.map((part) => (feature.weighted ? weighed(feature, part) : [part, "1"]));
  return {
    values: halves.map(([value]) => typed(feature, value, input)),
    weights: feature.weighted ? halves.map(([, weight]) => typed({ name: `${feature.name}, weight`, dtype: "FLOAT32" }, weight, input)) : null,
  };
}

// What a head takes for nothing, where other rows have something.
function nothing(feature, input) {
  if (feature.dtype === "STRING") return "";
  if (feature.dtype === "FLOAT32") return NaN;
  throw new Wrong(input, `${feature.name}: is left out of all rows, or of none: no whole number stands for nothing`);
}

function column(feature, inputs) {
  const cells = inputs.map((input) => cell(feature, input));
  const single = !feature.many && (feature.width || 1) === 1;
  if (!feature.weighted) return cells.map((each) => (single ? each.values[0] : each.values));
  const lists = { INT64: "int64s", UINT64: "uint64s", FLOAT32: "floats", STRING: "strings" };
  const offsets = cells.reduce((sums, each) => [...sums, sums[sums.length - 1] + each.values.length], [0]);
  return { [lists[feature.dtype]]: { values: cells.flatMap((each) => each.values) }, offsets, weights: cells.flatMap((each) => each.weights) };
}

function written(model) {
  const request = { model: model.name, features: {}, context: {} };
  [...$("try-features").rows].forEach((line, place) => {
    const feature = model.features[place];
    const inputs = [...line.querySelectorAll("input.value")];
    if (feature.optional && inputs.every((input) => !input.value.trim())) return;
    const shared = line.querySelector("input[type=checkbox]").checked;
    request[shared ? "context" : "features"][feature.name] = column(feature, inputs);
  });
  return json(request);
}

// -- the answer --------------------------------------------------------------------------------------------------------

async function predict(event) {
  event.preventDefault();
  const model = tried();
  forgetAnswer();
  if (!model) return;
  $("try").classList.add("sending");
  drawForm(model);
  try {
    const body = written(model);
    const began = performance.now();
    const reply = await ask("v1/predict", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(`${answer.message || answer.error || "It failed"} (${answer.code || `HTTP ${reply.status}`})`);
    if ($("try-model").value !== model.name) return; // another one has been chosen meanwhile
    put("try-took", `answered in ${ms(performance.now() - began)}, from here and back`);
    showAnswer(answer, body);
  } catch (error) {
    if (error instanceof Wrong) {
      error.input.setAttribute("aria-invalid", "true");
      error.input.focus();
    }
    put("try-error", error.name === "TimeoutError" ? "No answer in time." : error.message);
    $("try-error").hidden = false;
  } finally {
    $("try").classList.remove("sending");
    drawForm(tried());
  }
}

function forgetAnswer() {
  $("try-error").hidden = true;
  $("try-answer").hidden = true;
  put("try-took", "");
}

function showAnswer(answer, body) {
  const outputs = Object.entries(answer.outputs || {});
  const height = Math.max(0, ...outputs.map(([, values]) => values.length));
  const titles = ["row", ...outputs.map(([name]) => name)];
  $("out-head").replaceChildren(node("tr", {}, ...titles.map((title) => node("th", { scope: "col" }, title))));
  $("out-rows").replaceChildren(...Array.from({ length: height }, (_, row) =>
    node("tr", {}, node("th", { scope: "row" }, row + 1), ...outputs.map(([, values]) => node("td", {}, shortly(values[row]))))));
  const filled = (answer.filled || []).map((each) => `${each.feature}: ${each.values} values were filled in (${String(each.reason).toLowerCase()})`);
  const unknown = (answer.unknown || []).map((each) => `${each.feature}: ${each.ids} ids have no row`);
  const notes = [`${answer.model || ""} version ${answer.version} answered`, ...(answer.degraded || []), ...filled, ...unknown];
  $("out-notes").replaceChildren(...notes.map((note) => node("li", {}, note)));
  const show = token ? ' -H "Authorization: Bearer $RINGPULL_TOKEN"' : "";
  put("out-curl", `curl${show} ${new URL("v1/predict", location.href)} -d '${body.replaceAll("'", "'\\''")}'`);
  $("try-answer").hidden = false;
}

function shortly(value) {
  if (Array.isArray(value)) {
    const some = value.slice(0, 8).map(shortly).join(", ");
    return value.length > 8 ? `[${some}, … ${value.length} in all]` : `[${some}]`;
  }
  return typeof value === "number" ? String(+value.toPrecision(6)) : value === null || value === undefined ? "not scored" : String(value);
}

// -- where it begins ---------------------------------------------------------------------------------------------------

function grow(by) {
  formRows = Math.min(MAX_ROWS, Math.max(1, formRows + by));
  drawForm(tried());
}

$("try").addEventListener("submit", predict);
$("try-model").addEventListener("change", () => {
  forgetAnswer();
  offerModels();
});
$("try-more").addEventListener("click", () => grow(1));
$("try-fewer").addEventListener("click", () => grow(-1));
$("traffic-of").addEventListener("change", showTraffic);
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  if (/^[!-~]+$/.test(token)) return keepLooking();
  token = "";
  return put("token-why", "A token has letters, digits and signs of ASCII, and no spaces.");
});
window.addEventListener("resize", () => { if (status) showTraffic(); });
keepLooking();
