// Draws openapi.json as a page, with nothing from any other host.

const { paths } = await (await fetch("/openapi.json")).json();

document.getElementById("example").textContent =
  `curl --data-binary @small.jpg -o large.png "${location.origin}/v1/enhance?format=png"`;

document.getElementById("operations").replaceChildren(
  ...Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => section(method, path, operation))));

function section(method, path, operation) {
  const name = method.toUpperCase();
  return element("section", { className: "card operation" },
    element("h2", {}, element("span", { className: "method" }, name), path),
    element("p", {}, ...marked(`${operation.summary ?? ""}. ${operation.description ?? ""}`)),
    bodies(operation.requestBody),
    table("Parameters", ["name", "in", "values", "meaning"],
      (operation.parameters ?? []).map((each) =>
        [each.name, each.in, values(each.schema), marked(each.description ?? "")])),
    table("Answers", ["status", "meaning"],
      Object.entries(operation.responses).map(([status, answer]) => [status, meaning(answer)])));
}

// A refusal is one of some kinds of problem, each with a page of its own.
function meaning(answer) {
  const kinds = Object.keys(answer.content?.["application/problem+json"]?.examples ?? {});
  if (kinds.length === 0) {
    const types = Object.keys(answer.content ?? {}).join(", ");
    return types ? `${answer.description}: ${types}` : answer.description;
  }
  return kinds.flatMap((kind, place) =>
    [place ? ", " : "", element("a", { href: `/problems/${kind}` }, kind)]);
}

// `words in backticks` as code.
function marked(text) {
  return text.split("`").map((part, place) => (place % 2 ? element("code", {}, part) : part));
}

function bodies(body) {
  return body ? element("p", {}, `Body: ${Object.keys(body.content).join(", ")}`) : "";
}

function values(schema) {
  const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
  const default_ = schema.default === undefined ? "" : ` (default ${schema.default})`;
  return kinds.map((kind) => {
    if (kind.enum) return kind.enum.join(" | ");
    const range = kind.minimum === undefined ? "" : ` ${kind.minimum} to ${kind.maximum}`;
    return kind.type + range;
  }).join(" or ") + default_;
}

function table(caption, heads, rows) {
  if (rows.length === 0) return "";
  return element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {},
      ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {},
      ...cells.map((cell) => element("td", {}, ...[cell].flat()))))));
}

function element(name, attributes, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}
