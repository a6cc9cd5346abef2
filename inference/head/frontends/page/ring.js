// The ring: whose which part of it is. Grown, it has a thousand parts, of which none says its shard: who points at one, or
// at a row of the table below, or goes there by the arrow keys, sees all parts of that shard.
"use strict";

const SLOTS = 65536;
const LABELLED = SLOTS / 28; // what is shorter has no room for a number
const EDGED = SLOTS / 200; // what is shorter would be all edge

let picked = null; // a shard

const colorOf = (shard) => `f${shard % 8}`;
const angleOf = (slot) => (slot / SLOTS) * 2 * Math.PI - Math.PI / 2;
const pointAt = (radius, angle) => `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;

function showRing() {
  const shards = status.shards;
  if (!shards.some((each) => each.shard === picked)) picked = null;
  const gone = new Set(shards.filter((each) => !each.alive).map((each) => each.shard));
  const ring = arcsOf(status.ring);
  const next = arcsOf(status.next_ring).flatMap((arc) => pieces(arc, ring));
  const moved = next.filter((arc) => arc.moves).reduce((sum, arc) => sum + arc.end - arc.begin, 0) / SLOTS;
  const outer = ring.map((arc) => sector(arc, 76, 104, colorOf(arc.shard), `shard ${arc.shard}${gone.has(arc.shard) ? " does not answer" : ""}`));
  const dead = ring.filter((arc) => gone.has(arc.shard)).map((arc) => sector(arc, 104, 108, "gone", ""));
  const inner = (moved ? next : []).map((arc) => sector(arc, 60, 71, `${colorOf(arc.shard)} ${arc.moves ? "next" : "moving"}`, `to be shard ${arc.shard}`));
  const labels = ring.filter((arc) => arc.end - arc.begin > LABELLED).map((arc) => label(arc, 90));
  renew($("ring"), ...outer, ...dead, ...inner, ...labels, ...middle(shards));
  const shares = shards.map((each) => `shard ${each.shard} owns ${percent(each.share)}`).join(", ");
  put("ring-text", `The ring of ${shards.length} shards: ${shares}.`);
  const notes = [];
  if (moved) notes.push(`Inner ring: as it will be. ${percent(moved)} of it goes to another shard.`);
  if (labels.length < shards.length) notes.push("Point at a shard, here or in the table, to see all of its parts.");
  $("ring-note").hidden = !notes.length;
  put("ring-note", notes.join(" "));
  renew($("shards"), ...shards.map(shardRow));
}

function middle(shards) {
  const one = shards.find((each) => each.shard === picked);
  const words = one ? [`shard ${one.shard}`, percent(one.share)] : [shards.length === 1 ? "shard" : "shards", `epoch ${status.epoch}`];
  return [
    drawn("text", { class: "count", y: 4 }, one ? one.shard : shards.length),
    drawn("text", { class: "small", y: 22 }, words[0]),
    drawn("text", { class: "small", y: 38 }, words[1]),
  ];
}

function arcsOf(ring) {
  return !ring ? [] : ring.begins.map((begin, place) => ({ begin, end: ring.begins[place + 1] ?? SLOTS, shard: ring.shards[place] }));
}

// The parts of an arc by whether they have another owner now.
function pieces(arc, ring) {
  return ring
    .filter((now) => now.begin < arc.end && arc.begin < now.end)
    .map((now) => ({ begin: Math.max(arc.begin, now.begin), end: Math.min(arc.end, now.end), shard: arc.shard, moves: now.shard !== arc.shard }));
}

function sector(arc, inside, outside, kind, title) {
  const length = arc.end - arc.begin;
  const edge = length < EDGED || length === SLOTS ? " edgeless" : "";
  const pick = picked === null ? "" : arc.shard === picked ? " picked" : " faded";
  const attributes = { d: length === SLOTS ? whole(inside, outside) : part(arc, inside, outside), class: kind + edge + pick, "data-shard": arc.shard };
  return drawn("path", attributes, ...(title ? [drawn("title", {}, title)] : []));
}

function part(arc, inside, outside) {
  const [from, to] = [angleOf(arc.begin), angleOf(arc.end)];
  const large = arc.end - arc.begin > SLOTS / 2 ? 1 : 0;
  return `M${pointAt(outside, from)}A${outside} ${outside} 0 ${large} 1 ${pointAt(outside, to)}L${pointAt(inside, to)}A${inside} ${inside} 0 ${large} 0 ${pointAt(inside, from)}Z`;
}

function whole(inside, outside) {
  const circle = (radius) => `M0 ${-radius}A${radius} ${radius} 0 1 1 0 ${radius}A${radius} ${radius} 0 1 1 0 ${-radius}Z`;
  return circle(outside) + circle(inside);
}

function label(arc, radius) {
  const [x, y] = pointAt(radius, angleOf((arc.begin + arc.end) / 2)).split(" ");
  return drawn("text", { x, y: +y + 3.5, class: "shard", "aria-hidden": "true" }, arc.shard);
}

function shardRow(shard) {
  const kinds = [...(shard.alive ? [] : ["gone"]), ...(shard.shard === picked ? ["picked"] : [])];
  const attributes = { "data-shard": shard.shard, class: kinds.join(" ") };
  const name = node("th", { scope: "row", title: shard.address }, node("span", { class: `swatch ${colorOf(shard.shard)}` }), shard.shard);
  if (!shard.alive) return node("tr", attributes, name, node("td", {}, percent(shard.share)), node("td", { colspan: 3, class: "none" }, `no answer: ${shard.error}`));
  const sums = (field) => shard.tables.reduce((sum, table) => sum + Number(table[field]), 0);
  const meter = drawn("svg", { class: "meter", viewBox: "0 0 64 8", "aria-hidden": "true" }, drawn("rect", { width: 64, height: 8, rx: 4 }), drawn("rect", { width: Math.max(1, 64 * shard.share), height: 8, rx: 4, class: colorOf(shard.shard) }));
  return node("tr", attributes, name, node("td", {}, meter, percent(shard.share)), number(compact.format(sums("rows"))), number(bytes(sums("bytes"))), number(compact.format(shard.requests)));
}

// -- picking a shard ---------------------------------------------------------------------------------------------------

function pick(shard) {
  if (shard === picked) return;
  picked = shard;
  if (status) showRing();
}

function pointed(event) {
  const at = event.target.closest("[data-shard]");
  pick(at ? Number(at.dataset.shard) : null);
}

function stepped(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !status || !status.shards.length) return;
  event.preventDefault();
  const place = status.shards.findIndex((each) => each.shard === picked) + (picked === null && step < 0 ? 0 : step);
  pick(status.shards[Math.min(status.shards.length - 1, Math.max(0, place))].shard);
  $("shards").querySelector(".picked").scrollIntoView({ block: "nearest" });
}

for (const id of ["ring", "shards"]) {
  $(id).addEventListener("pointerover", pointed);
  $(id).addEventListener("pointerleave", () => pick(null));
}
$("shards-region").addEventListener("keydown", stepped);
$("shards-region").addEventListener("blur", () => pick(null));
