// The page's one job: send a picture, show what came back beside what was sent.

const $ = (id) => document.getElementById(id);
const TYPES = /^image\/(png|jpeg|webp|gif|tiff|bmp)$/;

let picture = null;
let running = null;
let shownUrls = [];

await listModels();

$("file").addEventListener("change", () => choose($("file").files[0]));
$("quality").addEventListener("input", () => { $("quality-shown").value = $("quality").value; });
$("split").addEventListener("input", moveSplit);
$("actual").addEventListener("change", () => {
  $("frame").classList.toggle("actual", $("actual").checked);
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

async function listModels() {
  try {
    const answer = await fetch("/v1/models");
    const { models } = await answer.json();
    $("model").replaceChildren(...models.map((model) => {
      const text = `${model.name} (${model.scale}×, version ${model.version})`;
      return new Option(text, model.name, model.default, model.default);
    }));
    if (models.length === 0) complain("No model is served yet. Reload this page in a moment.");
  } catch {
    complain("The server does not answer. Reload this page once it runs again.");
  }
}

function choose(file) {
  if (!file) return;
  picture = file;
  $("chosen").textContent = file.name || "Pasted picture";
  $("send").disabled = $("model").options.length === 0;
  $("fault").hidden = true;
}

async function enhance() {
  running = new AbortController();
  const started = performance.now();
  const clock = setInterval(() => say(`Working… ${seconds(started)}`), 200);
  busy(true);
  try {
    const answer = await fetch(`/v1/enhance?${options()}`, {
      method: "POST", body: form(), signal: running.signal,
    });
    if (answer.ok) {
      await show(answer, await answer.blob(), started);
    } else {
      const problem = await answer.json();
      complain(`${problem.title}: ${problem.detail}.`);
    }
  } catch (error) {
    complain(error.name === "AbortError" ? "Cancelled." : "The connection to the server broke.");
  } finally {
    clearInterval(clock);
    busy(false);
  }
}

function options() {
  const chosen = { model: $("model").value, quality: $("quality").value };
  if ($("format").value) chosen.format = $("format").value;
  return new URLSearchParams(chosen);
}

function form() {
  const data = new FormData();
  data.append("file", picture, picture.name || "pasted.png");
  return data;
}

async function show(answer, blob, started) {
  shownUrls.forEach(URL.revokeObjectURL);
  shownUrls = [URL.createObjectURL(picture), URL.createObjectURL(blob)];
  $("result").hidden = false;
  const before = await loaded($("before"), shownUrls[0]);
  const after = await loaded($("after"), shownUrls[1]);
  // A browser that cannot show the upload (TIFF) still shows the answer.
  $("compare").classList.toggle("alone", !before);
  moveSplit();
  const name = fileName(answer.headers.get("Content-Disposition"));
  Object.assign($("download"), { href: shownUrls[1], download: name });
  describe({
    Size: `${before ? `${sides($("before"))} → ` : ""}${after ? sides($("after")) : ""}`,
    Model: `${answer.headers.get("Sharpline-Model")}, version ${answer.headers.get("Sharpline-Version")}`,
    Time: seconds(started),
    File: `${name}, ${(blob.size / 1e6).toFixed(2)} MB`,
  });
  say("Done.");
  $("result").scrollIntoView({ block: "nearest" });
}

function loaded(image, url) {
  return new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    image.src = url;
  });
}

function describe(facts) {
  $("facts").replaceChildren(...Object.entries(facts).flatMap(([term, text]) => {
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
  $("send").disabled = yes;
  $("cancel").hidden = !yes;
  if (yes) $("fault").hidden = true;
}

function complain(text) {
  say("");
  $("fault").textContent = text;
  $("fault").hidden = false;
}

function say(text) { $("status").textContent = text; }

function sides(image) { return `${image.naturalWidth} × ${image.naturalHeight}`; }

function seconds(started) { return `${((performance.now() - started) / 1000).toFixed(1)} s`; }
