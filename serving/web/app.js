// Sends a picture to /v1/enhance and compares the result with the input.

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
$("format").addEventListener("change", updateQuality);
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
$("enhance-form").addEventListener("submit", (event) => { event.preventDefault(); enhance(); });

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
    const response = await fetch("/v1/models", { headers: credentials() });
    if (!response.ok) {
      await showProblem(response);
      return;
    }
    ({ models } = await response.json());
    const selected = $("model").value;
    $("model").replaceChildren(
      new Option("auto: selects by content", "auto"),
      ...models.map((model) => new Option(`${model.name} (${model.scale}×)`, model.name)));
    if ([...$("model").options].some((option) => option.value === selected)) {
      $("model").value = selected;
    }
    if (models.length === 0) {
      showStatus("The models are being loaded…");
      setTimeout(listModels, 1000);
    } else {
      showStatus("");
      $("fault").hidden = true;
    }
  } catch {
    showError("The server does not respond", "Reload this page when it is running again");
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
  updateQuality();
}

function readyToSend() { $("send").disabled = !picture || models.length === 0 || running !== null; }

function estimate() {
  const model = models.find((each) => each.name === $("model").value);
  const megapixels = $("preview").hidden
    ? 0 : ($("picture").naturalWidth * $("picture").naturalHeight) / 1e6;
  const seconds = (model?.seconds_per_megapixel ?? 0) * megapixels;
  $("estimate").textContent = seconds ? `About ${Math.max(1, Math.round(seconds))} s` : "";
}

function updateQuality() {
  const format = $("format").value || (picture?.type ?? "").replace("image/", "");
  $("quality").disabled = format !== "" && !LOSSY.has(format);
}

async function enhance() {
  running = new AbortController();
  const started = performance.now();
  const timer = setInterval(() => showStatus(`Enhancing… ${seconds(started)}`), 200);
  busy(true);
  try {
    const response = await fetch(`/v1/enhance?${options()}`, {
      method: "POST", body: form(), headers: credentials(), signal: running.signal,
    });
    if (response.ok) await show(response, await response.blob(), started);
    else await showProblem(response);
  } catch (error) {
    if (error.name === "AbortError") showStatus("Cancelled.");
    else showError("The connection to the server was lost", "Try again");
  } finally {
    clearInterval(timer);
    running = null;
    busy(false);
  }
}

function options() {
  const query = new URLSearchParams({ model: $("model").value, quality: $("quality").value });
  if ($("format").value) query.set("format", $("format").value);
  const region = $("part").checked ? parsed($("region").value) : null;
  if (region) query.set("region", [region.x, region.y, region.width, region.height].join(","));
  if ($("shrink").checked) query.set("on_too_large", "shrink");
  if ($("srgb").checked) query.set("icc", "srgb");
  if ($("metadata").checked) query.set("keep_metadata", "true");
  return query;
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

async function show(response, blob, started) {
  shownUrls.forEach(URL.revokeObjectURL);
  shownUrls = [URL.createObjectURL(picture), URL.createObjectURL(blob)];
  $("result").hidden = false;
  const before = await loaded($("before"), shownUrls[0]);
  const after = await loaded($("after"), shownUrls[1]);
  $("compare").classList.toggle("alone", !before);
  $("frame").hidden = !after;
  moveSplit();
  const header = (name) => response.headers.get(name);
  const name = fileName(header("Content-Disposition"));
  Object.assign($("download"), { href: shownUrls[1], download: name });
  const shrunk = header("Sharpline-Shrunk");
  describe({
    Size: [before && sides($("before")), after && sides($("after"))].filter(Boolean).join(" → "),
    Shrunk: shrunk && `the input's sides by the factor ${shrunk}, so that the result fits`,
    Model: `${header("Sharpline-Model")}, version ${header("Sharpline-Version")}`,
    Reason: header("Sharpline-Reason"),
    Time: seconds(started),
    File: `${name}, ${megabytes(blob.size)}`,
  });
  showStatus("Done.");
  $("result").focus({ preventScroll: true });
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("result").scrollIntoView({ block: "start", behavior: reducedMotion ? "auto" : "smooth" });
}

function loaded(image, url) {
  return new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = url;
  });
}

function describe(facts) {
  const present = Object.entries(facts).filter(([, text]) => text);
  $("facts").replaceChildren(...present.flatMap(([term, text]) => {
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

// Shows a problem (RFC 9457) with the advice that its type's URL returns.
async function showProblem(response) {
  const problem = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  $("key-field").hidden = response.status !== 401 && !sessionStorage.getItem(KEY);
  if (response.status === 401) {
    $("key").focus();
    const key = sessionStorage.getItem(KEY);
    showError(key ? "This API key is unknown" : "This server requires an API key",
      "enter your key in the field above");
    return;
  }
  const advice = problem.type?.startsWith("/problems/")
    ? await fetch(problem.type).then((page) => page.json()).then(({ advice }) => advice)
      .catch(() => "")
    : "";
  showError(problem.title ?? `The server responded ${response.status}`, problem.detail,
    wait ? `Try again in ${wait} s.` : advice);
}

function showError(title, detail = "", advice = "") {
  showStatus("");
  $("fault-title").textContent = title;
  $("fault-detail").textContent = detail && `${detail[0].toUpperCase()}${detail.slice(1)}.`;
  $("fault-advice").textContent = advice;
  $("fault").hidden = false;
}

function showStatus(text) { $("status").textContent = text; }

function sides(image) { return `${image.naturalWidth} × ${image.naturalHeight}`; }

function megabytes(bytes) {
  return bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function seconds(started) { return `${((performance.now() - started) / 1000).toFixed(1)} s`; }
