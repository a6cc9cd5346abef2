// The page of a deployment: asks /status every few seconds and shows it. Whatever comes from outside becomes text by
// textContent, never HTML. The token, where one is asked for, is a variable of this file and nowhere else.
"use strict";

const EVERY_MS = 3000;
const PATIENCE_MS = 10000;
const PHASES = ["preparing", "catching up", "guarding", "loading", "routing", "settling", "dropping"];
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

let token = "";
let status = null; // the last one that came
let failedSince = null;
let looking = false;
let nextLook = 0;

// -- asking ------------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
}

async function look() {
  const sent = token;
  try {
    const reply = await ask("status");
    if (token !== sent) return 1; // another one was sent meanwhile
    if (reply.status === 401 || reply.status === 403) return wantToken(reply.status, await reply.json());
    if (!reply.ok) throw new Error((await reply.json()).message || `HTTP ${reply.status}`);
    status = await reply.json();
  } catch (error) {
    return away(error);
  }
  failedSince = null;
  show();
  return EVERY_MS;
}

// Looks now, and from now on: one after the other, however often this is called.
async function keepLooking() {
  if (looking) return;
  looking = true;
  clearTimeout(nextLook);
  const pause = document.hidden && status !== null ? EVERY_MS : await look();
  looking = false;
  if (pause) nextLook = setTimeout(keepLooking, pause);
}

function wantToken(code, body) {
  $("main").hidden = true;
  $("token-form").hidden = false;
  const text = code === 403 || token ? body.message || "This token may not look." : "This deployment asks for a token with the right to read.";
  put("token-why", text);
  health("warn", "asks for a token");
  tell(text);
  token = "";
  $("token").value = "";
  $("token").focus();
  return 0; // whoever sends a token begins anew
}

function away(error) {
  failedSince = failedSince || new Date();
  const why = error.name === "TimeoutError" ? `no answer within ${PATIENCE_MS / 1000} s` : error.message;
  const text = `Since ${failedSince.toLocaleTimeString()} (${why}). It is asked again every ${EVERY_MS / 1000} s` + (status ? "; below is what it said last." : ".");
  $("main").hidden = false;
  $("main").classList.add(status ? "stale" : "unknown");
  $("away").hidden = false;
  put("away-text", text);
  health("bad", "no answer");
  tell("This head does not answer");
  document.title = "no answer · ringpull";
  return EVERY_MS;
}

// -- showing -----------------------------------------------------------------------------------------------------------

function node(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return element;
}

// Gives an element these children. What is there already stays as it is: text that is selected, or pointed at.
function renew(element, ...children) {
  const there = [...element.childNodes];
  children.forEach((child, place) => {
    const old = there[place];
    if (!old) element.append(child);
    else if (old.isEqualNode(child)) return;
    else if (old.nodeName !== child.nodeName) old.replaceWith(child);
    else if (old.nodeType === Node.TEXT_NODE) old.data = child.data;
    else become(old, child);
  });
  for (const gone of there.slice(children.length)) gone.remove();
}

function become(element, model) {
  for (const { name } of [...element.attributes]) if (!model.hasAttribute(name)) element.removeAttribute(name);
  for (const { name, value } of model.attributes) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  renew(element, ...model.childNodes);
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function tell(news) {
  put("news", news);
}

function health(state, text) {
  $("health").dataset.state = state;
  put("health-text", text);
}

function show() {
  $("token-form").hidden = true;
  $("main").hidden = false;
  $("main").classList.remove("stale", "unknown");
  $("away").hidden = true;
  const alive = status.shards.filter((each) => each.alive).length;
  const whole = alive === status.shards.length && status.heads.every((each) => each.alive);
  const changing = status.change && status.change.under_way;
  const worst = !whole ? "bad" : status.warnings.length ? "warn" : "good";
  const words = { bad: "not whole", warn: status.warnings.length === 1 ? "1 warning" : `${status.warnings.length} warnings`, good: changing ? "well, and changing" : "all is well" };
  health(worst, words[worst]);
  put("where", `${status.head}${status.device ? ` · ${status.device}` : ""}`);
  document.title = `${words[worst]} · ${alive} shards · ringpull`;
  const change = changing ? `; ${status.change.kind} ${status.change.subject}: ${status.change.phase}` : "";
  tell(`${words[worst]}, epoch ${status.epoch}${change}`);
  showWarnings();
  showChange(status.change);
  showTiles(alive);
  showRing();
  showTraffic();
  showModels();
  showTables();
  showHeads();
  offerModels();
  put("built", `ringpull ${status.server_version} · head up ${duration(status.uptime_s)} · epoch ${status.epoch}`);
  put("asked", ` · asked at ${new Date().toLocaleTimeString()}`);
}

function showWarnings() {
  $("warnings").hidden = !status.warnings.length;
  renew($("warnings-list"), ...status.warnings.map((each) => node("li", {}, each)));
}

function showChange(change) {
  $("change").hidden = !change || !change.under_way;
  if ($("change").hidden) return;
  put("change-title", change.paused ? "Change, paused" : "Change under way");
  put("change-what", `${change.kind} ${change.subject.replaceAll("->", "→")}`);
  const now = PHASES.indexOf(change.phase);
  const phases = now < 0 ? [change.phase] : PHASES;
  renew($("change-phases"), ...phases.map((each, place) => phase(each, now < 0 ? 0 : place - now)));
  $("change-done").value = change.done;
  put("change-amount", [amount(change), latencies(change)].filter(Boolean).join(" · "));
  put("change-trouble", change.trouble ? `trying again: ${change.trouble}` : "");
}

function phase(name, ahead) {
  const when = ahead < 0 ? "past" : ahead ? "next" : "now";
  return node("li", when === "now" ? { "data-at": when, "aria-current": "step" } : { "data-at": when }, name);
}

function amount(change) {
  const parts = [];
  if (change.phase === "preparing") {
    if (+change.bytes_to_copy) parts.push(`${bytes(change.copied_bytes)} of ${bytes(change.bytes_to_copy)} copied`);
    if (+change.bytes_to_check) parts.push(`${bytes(change.checked_bytes)} of ${bytes(change.bytes_to_check)} checked`);
  }
  return parts.join(", ") || `${change.members_done} of ${change.members} members`;
}

function latencies(change) {
  if (!change.now || !change.now.p99_ms) return "";
  const before = change.before && change.before.p99_ms ? ` (before ${ms(change.before.p99_ms)})` : "";
  return `p99 ${ms(change.now.p99_ms)}${before}`;
}

function showTiles(alive) {
  const all = status.recent[0] || { requests: 0, failed: 0, requests_per_s: 0, p50_ms: 0, p99_ms: 0 };
  const heads = status.heads.filter((each) => each.alive).length;
  renew(
    $("tiles"),
    tile(rate(all.requests_per_s), "requests a second"),
    tile(ms(all.p50_ms), "p50, 15 min"),
    tile(ms(all.p99_ms), "p99, 15 min"),
    tile(compact.format(all.failed), "failed, 15 min", +all.failed > 0),
    tile(`${alive}/${status.shards.length}`, "shards", alive < status.shards.length),
    tile(`${heads}/${status.heads.length}`, "heads", heads < status.heads.length),
  );
}

function tile(value, name, bad = false) {
  return node("li", bad ? { class: "bad" } : {}, node("b", {}, value), node("small", {}, name));
}

// -- charts ------------------------------------------------------------------------------------------------------------

const BOX = { left: 52, right: 10, top: 8, bottom: 22 };

function showTraffic() {
  const models = status.recent.map((each) => each.model);
  const chosen = $("traffic-of").value;
  choices($("traffic-of"), models, (model) => model || "all models", chosen);
  const of = status.recent.find((each) => each.model === $("traffic-of").value) || status.recent[0];
  if (!of) return;
  put("rate-now", `${rate(of.requests_per_s)} now`);
  put("latency-now", +of.requests ? `p50 ${ms(of.p50_ms)}, p99 ${ms(of.p99_ms)}` : "");
  const steps = stepsOf(of);
  drawRate($("rate"), of, steps);
  drawLatency($("latency"), of, steps);
}

// The steps of the last minutes; the last one, which is under way, counts by the time that it has taken.
function stepsOf(of) {
  return of.steps.requests.map((requests, place, all) => ({
    begin_s: Number(of.begin_s) + place * of.step_s,
    seconds: place === all.length - 1 ? Math.max(1, of.last_step_s) : of.step_s,
    requests: Number(requests),
    failed: Number(of.steps.failed[place]),
    p50_ms: of.steps.p50_ms[place],
    p99_ms: of.steps.p99_ms[place],
  }));
}

// Grid of a chart, as large as it is on the screen, and where the values lie in it.
function frame(svg, highest, unit, steps) {
  const [width, height] = [Math.max(240, svg.clientWidth || 640), Math.max(110, svg.clientHeight || 150)];
  const top = nice(highest);
  const x = (place) => BOX.left + (place / steps) * (width - BOX.left - BOX.right);
  const y = (value) => height - BOX.bottom - (Math.min(value, top) / top) * (height - BOX.top - BOX.bottom);
  const grid = [0, top / 2, top].flatMap((value) => [
    drawn("line", { class: "grid", x1: BOX.left, x2: width - BOX.right, y1: y(value), y2: y(value) }),
    drawn("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, value ? unit(value) : "0"),
  ]);
  const times = [15, 10, 5, 0].map((ago) =>
    drawn("text", { x: x(((15 - ago) / 15) * steps), y: height - 5, "text-anchor": ago === 15 ? "start" : ago ? "middle" : "end" }, ago ? `−${ago} min` : "now"));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return { x, y, base: [...grid, ...times] };
}

function drawRate(svg, of, steps) {
  const per = (step, field) => step[field] / step.seconds;
  const { x, y, base } = frame(svg, Math.max(...steps.map((step) => per(step, "requests"))), (value) => compact.format(value), steps.length);
  const bars = steps.flatMap((step, place) => {
    if (!step.requests) return [];
    const [all, failed] = [per(step, "requests"), per(step, "failed")];
    const left = x(place) + 0.5;
    const width = Math.max(1, x(place + 1) - x(place) - 1);
    const title = `${new Date(step.begin_s * 1000).toLocaleTimeString()}: ${rate(all)} a second${failed ? `, ${rate(failed)} failed` : ""}`;
    const bar = (from, to, kind) => drawn("rect", { class: kind, x: left, width, y: y(to), height: Math.max(0.8, y(from) - y(to)) }, drawn("title", {}, title));
    return failed ? [bar(failed, all, "bar"), bar(0, failed, "bar failed")] : [bar(0, all, "bar")];
  });
  renew(svg, ...base, ...bars);
  svg.setAttribute("aria-label", `Requests a second over the last 15 minutes: ${rate(of.requests_per_s)} now, ${count.format(of.requests)} in all, ${count.format(of.failed)} failed.`);
}

function drawLatency(svg, of, steps) {
  const unit = (value) => (value >= 1000 ? `${+(value / 1000).toPrecision(2)} s` : `${+value.toPrecision(2)} ms`);
  const { x, y, base } = frame(svg, Math.max(...steps.map((step) => step.p99_ms)), unit, steps.length);
  const lines = ["p99", "p50"].flatMap((name) => runs(steps, `${name}_ms`).map((run) => {
    const points = run.map(([place, value]) => [x(place + 0.5), y(value)]);
    if (points.length === 1) return drawn("circle", { class: name, cx: points[0][0], cy: points[0][1], r: 2.5 });
    return drawn("polyline", { class: name, points: points.map((each) => each.map((one) => one.toFixed(1)).join(",")).join(" ") });
  }));
  renew(svg, ...base, ...lines);
  svg.setAttribute("aria-label", `Latency over the last 15 minutes: p50 ${ms(of.p50_ms)}, p99 ${ms(of.p99_ms)}.`);
}

// The steps that have answers, without the gaps between them.
function runs(steps, field) {
  const found = [[]];
  steps.forEach((step, place) => {
    if (step[field]) found[found.length - 1].push([place, step[field]]);
    else if (found[found.length - 1].length) found.push([]);
  });
  return found.filter((run) => run.length);
}

function nice(highest) {
  const magnitude = 10 ** Math.floor(Math.log10(highest || 1));
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].map((step) => step * magnitude).find((step) => step >= (highest || 1)) || 10 * magnitude;
}

// -- tables ------------------------------------------------------------------------------------------------------------

const number = (text) => node("td", { class: "n" }, text);
const named = (text) => node("th", { scope: "row", class: "name" }, text);

function rows(id, found, none, columns) {
  renew($(id), ...(found.length ? found : [node("tr", {}, node("td", { class: "none", colspan: columns }, none))]));
}

// One entry for each model, its live version's. Versions are text: those beyond 2^53 are no numbers of this language.
function models() {
  const found = new Map();
  for (const each of status ? status.models : []) if (!found.has(each.name) || each.version === status.live[each.name]) found.set(each.name, each);
  return [...found.values()];
}

function showModels() {
  rows("models", models().map((model) => {
    const live = status.live[model.name];
    const of = status.recent.find((each) => each.model === model.name) || { requests: 0, failed: 0, p50_ms: 0, p99_ms: 0 };
    const labels = Object.entries(model.labels || {});
    const tags = model.versions.flatMap((version) => {
      const words = labels.filter(([, labelled]) => labelled === version).map(([name]) => name);
      return [node("span", { class: version === live ? "tag live" : "tag" }, [version, ...words].join(" · ")), " "];
    });
    const gives = model.outputs.map((output) => output.name + (output.shape.length ? `[${output.shape.join(", ")}]` : "")).join(", ");
    return node("tr", {}, named(model.name), node("td", {}, live || "–"), node("td", {}, ...tags), number(count.format(of.requests)), number(count.format(of.failed)), number(ms(of.p50_ms)), number(ms(of.p99_ms)), node("td", { class: "name" }, gives || "rows by key"));
  }), "No model is served.", 8);
}

function showTables() {
  rows("tables", status.tables.map((table) => {
    const missing = +table.keys ? `${compact.format(table.missing)} (${percent(table.missing / table.keys)})` : compact.format(table.missing);
    const short = table.replicas_wanted !== "all" && +table.replicas_wanted > table.replicas_effective;
    const copies = short ? `${table.replicas_effective} of ${table.replicas_wanted} !` : table.replicas_wanted === "all" ? `all (${table.replicas_effective})` : table.replicas_effective;
    return node("tr", {}, named(`${table.model}/${table.table}`), number(table.version), number(count.format(table.rows)), number(bytes(table.bytes)), number(copies), number(rate(table.keys_per_s)), number(compact.format(table.keys)), number(missing));
  }), "There are no tables.", 8);
}

function showHeads() {
  put("heads-sum", `${count.format(status.requests)} requests in all, ${count.format(status.failed)} failed`);
  rows("heads", status.heads.map((head) => {
    const name = node("th", { scope: "row" }, head.head, ...(head.head === status.head_number ? [" ", node("span", { class: "tag" }, "answers here")] : []));
    const silent = head.alive ? "" : ` · not heard for ${duration(head.heard_s)}`;
    return node("tr", head.alive ? {} : { class: "gone" }, name, node("td", {}, `${head.address || "not up yet"}${silent}`), node("td", {}, head.http), number(count.format(head.requests)), number(count.format(head.failed)));
  }), "No head was heard of.", 5);
}

// -- words for numbers -------------------------------------------------------------------------------------------------

const percent = (share) => `${(100 * share).toFixed(share && share < 0.001 ? 2 : 1)}%`;
const rate = (value) => (value >= 100 ? compact.format(value) : value >= 10 ? value.toFixed(0) : value ? value.toFixed(1) : "0");

function ms(value) {
  if (!value) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

function bytes(value) {
  let left = Number(value);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (left < 1024) return `${unit === "B" ? left : left.toFixed(1)} ${unit}`;
    left /= 1024;
  }
  return `${left.toFixed(1)} TiB`;
}

function duration(seconds) {
  const total = Math.floor(seconds);
  for (const [unit, name, below, belowName] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]])
    if (total >= unit) return `${Math.floor(total / unit)} ${name} ${Math.floor((total % unit) / below)} ${belowName}`;
  return `${total} s`;
}

// Fills a select anew only when what is to be chosen from has changed: an open one would close.
function choices(select, values, text, chosen) {
  if (select.dataset.values === JSON.stringify(values)) return;
  select.dataset.values = JSON.stringify(values);
  select.replaceChildren(...values.map((value) => node("option", { value }, text(value))));
  select.value = values.includes(chosen) ? chosen : values[0] ?? "";
}
