// The form that tries a prediction: a line for each feature of the model, a column for each candidate row. It posts to
// v1/predict what `ringpull predict` would send, and shows the outputs, or the error in words.
"use strict";

const MAX_ROWS = 8;
const INTEGER = /^[+-]?\d+$/;

let formRows = 3;

function offerModels() {
  const names = models().filter((model) => model.outputs.length).map((model) => model.name);
  choices($("try-model"), names, (name) => name, $("try-model").value);
  const model = tried();
  const schema = JSON.stringify(model && model.features);
  if ($("try").dataset.schema === schema) return; // what was typed stays
  $("try").dataset.schema = schema;
  drawForm(model);
}

function tried() {
  return models().find((model) => model.name === $("try-model").value);
}

function drawForm(model) {
  for (const button of $("try").querySelectorAll("button")) button.disabled = !model;
  $("try-more").disabled = !model || formRows === MAX_ROWS;
  $("try-fewer").disabled = !model || formRows === 1;
  if (!model) return rows("try-features", [], "No model that can be asked is served.", 2);
  const titles = ["feature", "one for all", ...Array.from({ length: formRows }, (_, row) => `row ${row + 1}`)];
  $("try-head").replaceChildren(node("tr", {}, ...titles.map((title) => node("th", { scope: "col" }, title))));
  $("try-features").replaceChildren(...model.features.map((feature, place) => featureLine(feature, place)));
}

function featureLine(feature, place) {
  const shared = node("input", { type: "checkbox", "aria-label": `${feature.name}: one for all rows` });
  shared.checked = place === 0 && !feature.many;
  const line = node("tr", {}, node("th", { scope: "row", class: "name", title: feature.name }, feature.name, " ", node("span", { class: "tag" }, kind(feature))), node("td", {}, shared));
  const draw = () => {
    const kept = [...line.querySelectorAll("input.value")].map((input) => input.value);
    while (line.cells.length > 2) line.deleteCell(2);
    for (let row = 0; row < (shared.checked ? 1 : formRows); row++) line.append(node("td", shared.checked ? { colspan: formRows } : {}, valueInput(feature, row, shared.checked, kept[row])));
  };
  shared.addEventListener("change", draw);
  draw();
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
  return `${names[feature.dtype] || "?"}${feature.many ? " list" : ""}${width}${feature.optional ? ", optional" : ""}`;
}

function example(feature, row) {
  const one = (place) => ({ FLOAT32: "0.5", STRING: "a" })[feature.dtype] || String(row + place + 1);
  const several = feature.many ? 2 : Math.min(feature.width || 1, 512);
  return Array.from({ length: several || 1 }, (_, place) => one(place)).join(", ");
}

// -- from what was typed to a request ----------------------------------------------------------------------------------

class Wrong extends Error {
  constructor(input, message) {
    super(message);
    this.input = input;
  }
}

// JSON with integers as they were typed: those beyond 2^53 are no numbers of this language.
function json(value) {
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value !== null && typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${json(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function typed(feature, text, input) {
  if (feature.dtype === "STRING") return text;
  if (feature.dtype === "FLOAT32") {
    if (text && Number.isFinite(Number(text))) return Number(text);
    throw new Wrong(input, `${feature.name}: ${text ? `“${text}”` : "nothing"} is not a number`);
  }
  if (INTEGER.test(text)) return BigInt(text);
  throw new Wrong(input, `${feature.name}: ${text ? `“${text}”` : "nothing"} is not a whole number`);
}

function cell(feature, input) {
  const text = input.value.trim();
  const width = feature.width || 1;
  if (!feature.many && width === 1) return { values: [typed(feature, text, input)] };
  const parts = text ? text.split(",").map((part) => part.trim()) : [];
  if (!feature.many && parts.length !== width) throw new Wrong(input, `${feature.name}: ${parts.length} numbers; it takes ${width}, separated by commas`);
  const weighed = feature.weighted && parts.some((part) => part.includes(":"));
  const halves = parts.map((part) => {
    const colon = weighed ? part.lastIndexOf(":") : -1;
    return colon < 0 ? [part, "1"] : [part.slice(0, colon).trim(), part.slice(colon + 1).trim()];
  });
  return {
    values: halves.map(([value]) => typed(feature, value, input)),
    weights: weighed ? halves.map(([, weight]) => typed({ name: `${feature.name}, weight`, dtype: "FLOAT32" }, weight, input)) : null,
  };
}

function column(feature, inputs) {
  const cells = inputs.map((input) => cell(feature, input));
  const single = !feature.many && (feature.width || 1) === 1;
  if (!cells.some((each) => each.weights)) return cells.map((each) => (single ? each.values[0] : each.values));
  const lists = { INT64: "int64s", UINT64: "uint64s", FLOAT32: "floats", STRING: "strings" };
  const offsets = cells.reduce((sums, each) => [...sums, sums[sums.length - 1] + each.values.length], [0]);
  const weights = cells.flatMap((each) => each.weights || each.values.map(() => 1));
  return { [lists[feature.dtype]]: { values: cells.flatMap((each) => each.values) }, offsets, weights };
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
  const button = $("try").querySelector("button.main");
  $("try-error").hidden = true;
  $("try-answer").hidden = true;
  put("try-took", "");
  button.disabled = true;
  try {
    const body = written(tried());
    const began = performance.now();
    const reply = await ask("v1/predict", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(`${answer.message || answer.error || "It failed"} (${answer.code || `HTTP ${reply.status}`})`);
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
    button.disabled = false;
  }
}

function showAnswer(answer, body) {
  const outputs = Object.entries(answer.outputs || {});
  const height = Math.max(0, ...outputs.map(([, values]) => values.length));
  const titles = ["row", ...outputs.map(([name]) => name)];
  $("out-head").replaceChildren(node("tr", {}, ...titles.map((title) => node("th", { scope: "col" }, title))));
  $("out-rows").replaceChildren(...Array.from({ length: height }, (_, row) =>
    node("tr", {}, node("th", { scope: "row" }, row + 1), ...outputs.map(([, values]) => node("td", {}, shortly(values[row]))))));
  const filled = (answer.filled || []).map((each) => `${each.feature}: ${each.values} values were filled in (${String(each.reason).toLowerCase()})`);
  const notes = [`${answer.model || ""} version ${answer.version} answered`, ...(answer.degraded || []), ...filled];
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
  const kept = [...$("try-features").rows].map((line) => [line.querySelector("input[type=checkbox]").checked, [...line.querySelectorAll("input.value")].map((input) => input.value)]);
  drawForm(tried());
  [...$("try-features").rows].forEach((line, place) => {
    const [shared, values] = kept[place];
    const box = line.querySelector("input[type=checkbox]");
    if (box.checked !== shared) {
      box.checked = shared;
      box.dispatchEvent(new Event("change"));
    }
    line.querySelectorAll("input.value").forEach((input, row) => { if (row < values.length) input.value = values[row]; });
  });
}

$("try").addEventListener("submit", predict);
$("try-model").addEventListener("change", offerModels);
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
