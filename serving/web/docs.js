// Renders openapi.json as a page, without assets from other hosts.

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
    table("Responses", ["status", "meaning"],
      Object.entries(operation.responses).map(
        ([status, response]) => [status, meaning(response)])));
}

// An error response links to the pages of its problem types.
function meaning(response) {
  const labels = Object.keys(response.content?.["application/problem+json"]?.examples ?? {});
  if (labels.length === 0) {
    const types = Object.keys(response.content ?? {}).join(", ");
    return types ? `${response.description}: ${types}` : response.description;
  }
  return labels.flatMap((label, index) =>
    [index ? ", " : "", element("a", { href: `/problems/${label}` }, label)]);
}

// Renders text in `backticks` as code.
function marked(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

function bodies(body) {
  return body ? element("p", {}, `Body: ${Object.keys(body.content).join(", ")}`) : "";
}

function values(schema) {
  const types = (schema.anyOf ?? [schema]).filter((type) => type.type !== "null");
  const default_ = schema.default === undefined ? "" : ` (default ${schema.default})`;
  return types.map((type) => {
    if (type.enum) return type.enum.join(" | ");
    const range = type.minimum === undefined ? "" : ` ${type.minimum} to ${type.maximum}`;
    return type.type + range;
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
