// The page's one job: send a picture, show what came back beside what was sent.

import { parsed, selectable } from "./region.js";

const $ = (id) => document.getElementById(id);
const TYPES = /^image\/(png|jpeg|webp|gif|tiff|bmp|avif)$/;
const LOSSY = new Set(["jpeg", "webp", "avif"]);
const KEY = "sharpline-key";

let picture = null; // the file
let models = [];
let running = null;
let shownUrls = [];
let previewUrl = null;

const selection = selectable($("canvas"), $("picture"), $("selection"), (region) => {
  $("region").value = region
    ? [region.x, region.y, region.width, region.height].join(", ") : "";
});

$("file").addEventListener("change", () => choose($("file").files[0]));
$("model").addEventListener("change", estimate);
$("format").addEventListener("change", dimQuality);
$("quality").addEventListener("input", () => { $("quality-shown").value = $("quality").value; });
$("part").addEventListener("change", () => {
  $("region-field").hidden = !$("part").checked;
  selection.enable($("part").checked);
  if ($("part").checked) selection.show(parsed($("region").value));
});
$("region").addEventListener("input", () => selection.show(parsed($("region").value)));
$("split").addEventListener("input", moveSplit);
$("actual").addEventListener("change", () => {
  $("frame").classList.toggle("actual", $("actual").checked);
});
$("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY, $("key").value.trim());
  listModels();
});
$("cancel").addEventListener("click", () => running?.abort());
$("order").addEventListener("submit", (event) => { event.preventDefault(); enhance(); });

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => TYPES.test(each.type));
  if (file) choose(file);
});

await listModels();

async function listModels() {
  try {
    const answer = await fetch("/v1/models", { headers: credentials() });
    if (!answer.ok) {
      await complainOf(answer);
      return;
    }
    ({ models } = await answer.json());
    const chosen = $("model").value;
    $("model").replaceChildren(
      new Option("auto: looks at the picture", "auto"),
      ...models.map((model) => new Option(`${model.name} (${model.scale}×)`, model.name)));
    if ([...$("model").options].some((option) => option.value === chosen)) $("model").value = chosen;
    if (models.length === 0) {
      say("The models are being loaded…");
      setTimeout(listModels, 1000);
    } else {
      say("");
      $("fault").hidden = true;
    }
  } catch {
    complain("The server does not answer", "Reload this page once it runs again");
  }
  readyToSend();
}

async function choose(file) {
  if (!file) return;
  picture = file;
  $("chosen").textContent = file.name || "Pasted picture";
  $("chosen-facts").textContent = megabytes(file.size);
  $("fault").hidden = true;
  if (previewUrl) URL.revokeObjectURL(previewUrl);
  previewUrl = URL.createObjectURL(file);
  // A browser that cannot show the file (TIFF) can still send it.
  const visible = await loaded($("picture"), previewUrl);
  $("preview").hidden = !visible;
  $("drop").classList.toggle("small", visible);
  $("part").disabled = !visible;
  $("part").checked = false;
  $("part").dispatchEvent(new Event("change"));
  $("region").value = "";
  if (visible) $("chosen-facts").textContent = `${sides($("picture"))}, ${megabytes(file.size)}`;
  $("chosen-facts").textContent += " · choose another";
  readyToSend();
  estimate();
  dimQuality();
}

function readyToSend() { $("send").disabled = !picture || models.length === 0 || running !== null; }

function estimate() {
  const model = models.find((each) => each.name === $("model").value);
  const megapixels = $("preview").hidden
    ? 0 : ($("picture").naturalWidth * $("picture").naturalHeight) / 1e6;
  const seconds = (model?.seconds_per_megapixel ?? 0) * megapixels;
  $("estimate").textContent = seconds ? `About ${Math.max(1, Math.round(seconds))} s of computing` : "";
}

function dimQuality() {
  const format = $("format").value || (picture?.type ?? "").replace("image/", "");
  $("quality").disabled = format !== "" && !LOSSY.has(format);
}

async function enhance() {
  running = new AbortController();
  const started = performance.now();
  const clock = setInterval(() => say(`Working… ${seconds(started)}`), 200);
  busy(true);
  try {
    const answer = await fetch(`/v1/enhance?${options()}`, {
      method: "POST", body: form(), headers: credentials(), signal: running.signal,
    });
    if (answer.ok) await show(answer, await answer.blob(), started);
    else await complainOf(answer);
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled.");
    else complain("The connection to the server broke", "Nothing was changed; try again");
  } finally {
    clearInterval(clock);
    running = null;
    busy(false);
  }
}

function options() {
  const chosen = new URLSearchParams({ model: $("model").value, quality: $("quality").value });
  if ($("format").value) chosen.set("format", $("format").value);
  const region = $("part").checked ? parsed($("region").value) : null;
  if (region) chosen.set("region", [region.x, region.y, region.width, region.height].join(","));
  if ($("shrink").checked) chosen.set("on_too_large", "shrink");
  if ($("srgb").checked) chosen.set("icc", "srgb");
  if ($("metadata").checked) chosen.set("keep_metadata", "true");
  return chosen;
}

function form() {
  const data = new FormData();
  data.append("file", picture, picture.name || "pasted.png");
  return data;
}

function credentials() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function show(answer, blob, started) {
  shownUrls.forEach(URL.revokeObjectURL);
  shownUrls = [URL.createObjectURL(picture), URL.createObjectURL(blob)];
  $("result").hidden = false;
  const before = await loaded($("before"), shownUrls[0]);
  const after = await loaded($("after"), shownUrls[1]);
  $("compare").classList.toggle("alone", !before);
  $("frame").hidden = !after;
  moveSplit();
  const told = (name) => answer.headers.get(name);
  const name = fileName(told("Content-Disposition"));
  Object.assign($("download"), { href: shownUrls[1], download: name });
  const shrunk = told("Sharpline-Shrunk");
  describe({
    Size: [before && sides($("before")), after && sides($("after"))].filter(Boolean).join(" → "),
    Shrunk: shrunk && `the input's sides times ${shrunk}, so that the answer fits`,
    Model: `${told("Sharpline-Model")}, version ${told("Sharpline-Version")}`,
    Why: told("Sharpline-Reason"),
    Time: seconds(started),
    File: `${name}, ${megabytes(blob.size)}`,
  });
  say("Done.");
  $("result").focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("result").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

function loaded(image, url) {
  return new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = url;
  });
}

function describe(facts) {
  const known = Object.entries(facts).filter(([, text]) => text);
  $("facts").replaceChildren(...known.flatMap(([term, text]) => {
    const pair = [document.createElement("dt"), document.createElement("dd")];
    pair[0].textContent = term;
    pair[1].textContent = text;
    return pair;
  }));
}

function fileName(disposition) {
  const encoded = /filename\*=UTF-8''([^;]+)/.exec(disposition ?? "");
  return encoded ? decodeURIComponent(encoded[1]) : "picture.png";
}

function moveSplit() {
  $("compare").style.setProperty("--split", `${$("split").value}%`);
}

function busy(yes) {
  readyToSend();
  $("cancel").hidden = !yes;
  $("progress").hidden = !yes;
  if (yes) $("fault").hidden = true;
}

// A problem says what was wrong; the address in its type says what to do about it.
async function complainOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("Retry-After");
  $("key-field").hidden = answer.status !== 401 && !sessionStorage.getItem(KEY);
  if (answer.status === 401) {
    $("key").focus();
    const known = sessionStorage.getItem(KEY);
    complain(known ? "This API key is not known here" : "This server wants an API key",
      "enter yours in the field above");
    return;
  }
  const advice = problem.type?.startsWith("/problems/")
    ? await fetch(problem.type).then((told) => told.json()).then((told) => told.advice).catch(() => "")
    : "";
  complain(problem.title ?? `The server answered ${answer.status}`, problem.detail,
    wait ? `Try again in ${wait} s.` : advice);
}

function complain(title, detail = "", advice = "") {
  say("");
  $("fault-title").textContent = title;
  $("fault-detail").textContent = detail && `${detail[0].toUpperCase()}${detail.slice(1)}.`;
  $("fault-advice").textContent = advice;
  $("fault").hidden = false;
}

function say(text) { $("status").textContent = text; }

function sides(image) { return `${image.naturalWidth} × ${image.naturalHeight}`; }

function megabytes(bytes) {
  return bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function seconds(started) { return `${((performance.now() - started) / 1000).toFixed(1)} s`; }
