
// Attention and bias: the weights of a layer and head with the queries' centres, and the row of one query below.
(() => {
  const runs = inline("viewer-data");
  const root = document.getElementById("viewer");
  if (!runs.length || !root) return;
  const narrow = matchMedia("(max-width: 48rem)");
  const LEFT = 46, RIGHT = 12, STRIP = 64;
  let WIDTH = 0;
  const FLOOR = -10; // a bias so far below a row's largest makes a weight e^10 times smaller
  const chosen = { run: 0, example: 0, head: 0, layer: 0, query: Math.floor(runs[0].examples[0].weights[0][0].length / 4) };

  const controls = element("div", { class: "controls" });
  const views = element("div", { class: "views" });
  const readout = element("output");
  root.append(controls, views, readout);

  function control(name, input, label = name) {
    const said = element("span", {}, label);
    const box = element("label", {}, said, input);
    input.id = `viewer-${name}`;
    input.addEventListener("input", () => {
      chosen[name] = Number(input.value);
      if (name === "run" || name === "example") fill();
      draw();
    });
    controls.append(box);
    return { input, said, box };
  }
  const slider = () => element("input", { type: "range", min: 0, value: 0 });
  const parts = {
    run: control("run", element("select")),
    example: control("example", element("select"), "test example"),
    head: control("head", element("select")),
    layer: control("layer", slider()),
    query: control("query", slider()),
  };

  const run = () => runs[chosen.run];
  const example = () => run().examples[chosen.example];
  const mean = (rows) => rows[0].map((_, j) => rows.reduce((sum, row) => sum + row[j], 0) / rows.length);
  const heads = (perHead) => (chosen.head < perHead.length ? [perHead[chosen.head]] : perHead);
  const weightRow = (i) => mean(heads(example().weights[chosen.layer]).map((map) => map[i])).map((w) => w / 1000);

  // f is known at whole offsets; between them a straight line, beyond them nothing.
  function biasAt(f, offset) {
    const at = offset - run().offsets[0], low = Math.floor(at);
    if (at < 0 || at > f.length - 1) return null;
    return low === at ? f[low] : f[low] + (at - low) * (f[low + 1] - f[low]);
  }
  function biasRow(layer, i, count) {
    const centre = example().centres[layer][i];
    const rows = heads(run().bias[layer]).map((f) => Array.from({ length: count }, (_, j) => biasAt(f, j - centre)));
    return rows[0].map((_, j) => (rows.some((row) => row[j] === null) ? null : rows.reduce((sum, row) => sum + row[j], 0) / rows.length));
  }

  function fill() {
    const option = (value, text) => element("option", { value }, text);
    const renew = (name, options) => {
      parts[name].input.replaceChildren(...options);
      chosen[name] = Math.min(chosen[name], options.length - 1);
      parts[name].input.value = chosen[name];
    };
    const same = (a, b) => a.model === b.model && a.noise === b.noise && a.seed === b.seed;
    renew("run", runs.map((r, i) => option(i, `${r.task.replaceAll("_", " ")}, ${r.model}, noise ${r.noise}, seed ${r.seed}` +
      (runs.filter((other) => same(other, r)).length > 1 ? `, ${r.hash}` : ""))));
    renew("example", run().examples.map((e, i) => option(i, String(e.example))));
    const count = example().weights[0].length;
    renew("head", [...Array.from({ length: count }, (_, i) => option(i, String(i + 1))), option(count, "mean of heads")]);
    parts.layer.input.max = example().weights.length - 1;
    parts.query.input.max = example().weights[0][0].length - 1;
  }

  function draw() {
    WIDTH = narrow.matches ? 350 : 560; // so that letters are as large on a phone
    for (const name of ["layer", "query"]) {
      chosen[name] = Math.min(chosen[name], Number(parts[name].input.max));
      parts[name].input.value = chosen[name];
    }
    const layers = example().weights.length, queries = example().weights[0][0].length, values = example().weights[0][0][0].length;
    parts.layer.said.textContent = `layer ${chosen.layer + 1} of ${layers}`;
    parts.layer.input.setAttribute("aria-valuetext", parts.layer.said.textContent);
    parts.query.said.textContent = `query ${chosen.query} of 0 to ${queries - 1}`;
    views.replaceChildren(map(queries, values), moves(layers, queries, values));
    say(null);
  }

  function labels(count, room) {
    const step = [1, 2, 5, 10, 20, 50, 100].find((s) => (count / s) * 24 <= room) ?? 200;
    return Array.from({ length: Math.ceil(count / step) }, (_, k) => k * step);
  }

  function map(queries, values) {
    const cell = (WIDTH - LEFT - RIGHT) / values, row = Math.min(cell, 400 / queries), bottom = 8 + row * queries;
    const x = (j) => LEFT + (j + 0.5) * cell, y = (i) => 8 + (i + 0.5) * row;
    const weightsTop = bottom + 62, biasTop = weightsTop + STRIP + 34;
    const centres = example().centres?.[chosen.layer];
    const height = (run().bias ? biasTop + STRIP : weightsTop + STRIP) + 34;
    const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label":
      `Attention weights, layer ${chosen.layer + 1}, ${queries} queries by ${values} values` });
    plot.append(svg("rect", { class: "ground", x: LEFT, y: 8, width: cell * values, height: row * queries }));
    for (let i = 0; i < queries; i++) {
      weightRow(i).forEach((weight, j) => {
        if (weight >= 0.004) {
          plot.append(svg("rect", { class: "heat", x: (LEFT + j * cell).toFixed(2), y: (8 + i * row).toFixed(2), width: (cell + 0.05).toFixed(2), height: (row + 0.05).toFixed(2), "fill-opacity": weight.toFixed(3) }));
        }
      });
    }
    plot.append(svg("rect", { class: "frame", x: LEFT, y: 8, width: cell * values, height: row * queries }));
    if (centres) {
      const inside = (c) => Math.max(-0.5, Math.min(values - 0.5, c));
      plot.append(svg("path", { class: "start", d: path(centres.map((_, i) => [x(inside(i)), y(i)])) }));
      plot.append(svg("path", { class: "path", d: path(centres.map((c, i) => [x(inside(c)), y(i)])) }));
      centres.forEach((c, i) => plot.append(svg("circle", { class: "centre", cx: x(inside(c)).toFixed(1), cy: y(i).toFixed(1), r: Math.min(4, 0.36 * row + 1).toFixed(1) })));
    }
    plot.append(svg("rect", { class: "chosen", x: LEFT - 1, y: 8 + chosen.query * row, width: cell * values + 2, height: row }));
    for (const i of labels(queries, row * queries * 1.4)) plot.append(svg("text", { x: LEFT - 6, y: y(i) + 4, "text-anchor": "end" }, String(i)));
    const across = labels(values, WIDTH - LEFT);
    for (const j of across) plot.append(svg("text", { x: x(j), y: bottom + 14, "text-anchor": "middle" }, String(j)));
    plot.append(svg("text", { transform: `translate(12 ${(8 + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "query i"),
      svg("text", { x: LEFT, y: bottom + 31 }, "value j"));
    // The key of the shades.
    for (let k = 0; k <= 20; k++) plot.append(svg("rect", { class: "heat", x: WIDTH - RIGHT - 150 + k * 5, y: bottom + 22, width: 5, height: 9, "fill-opacity": k / 20 }));
    plot.append(svg("text", { x: WIDTH - RIGHT - 155, y: bottom + 31, "text-anchor": "end" }, "weight 0"), svg("text", { x: WIDTH - RIGHT - 40, y: bottom + 31 }, "1"));

    const weights = weightRow(chosen.query);
    strip(plot, weightsTop, `weights of query ${chosen.query}`, ["0", "1"]);
    weights.forEach((weight, j) => plot.append(svg("rect", { class: "stop", x: x(j) - 0.36 * cell, width: 0.72 * cell, y: weightsTop + STRIP * (1 - weight), height: STRIP * weight })));
    if (run().bias) {
      const bias = biasRow(chosen.layer, chosen.query, values), largest = Math.max(...bias.filter((b) => b !== null));
      const c = x(Math.max(-0.5, Math.min(values - 0.5, centres[chosen.query])));
      strip(plot, biasTop, `bias f(j − c) of query ${chosen.query}, less its largest; c = ${centres[chosen.query].toFixed(1)}`, [`≤${FLOOR}`.replace("-", "−"), "0"]);
      const place = (b) => biasTop + STRIP * (Math.max(FLOOR, b - largest) / FLOOR);
      plot.append(svg("path", { class: "bias", d: path(bias.map((b, j) => [x(j), b]).filter(([, b]) => b !== null).map(([at, b]) => [at, place(b)])) }));
      for (const top of [weightsTop, biasTop]) plot.append(svg("line", { class: "guide", x1: c, x2: c, y1: top, y2: top + STRIP }));
    }
    for (const j of across) plot.append(svg("text", { x: x(j), y: height - 20, "text-anchor": "middle" }, String(j)));
    plot.append(svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: height - 4, "text-anchor": "middle" }, "value j"));

    const place = (event) => {
      const at = plot.getBoundingClientRect(), scale = WIDTH / at.width;
      const j = Math.floor(((event.clientX - at.left) * scale - LEFT) / cell), i = Math.floor(((event.clientY - at.top) * scale - 8) / row);
      return i >= 0 && i < queries && j >= 0 && j < values ? [i, j] : null;
    };
    plot.addEventListener("pointermove", (event) => say(place(event)));
    plot.addEventListener("click", (event) => {
      const found = place(event);
      if (!found) return;
      chosen.query = found[0];
      parts.query.input.value = found[0];
      draw();
      say(found);
    });
    return plot;
  }

  function strip(plot, top, title, [low, high]) {
    plot.append(
      svg("text", { x: LEFT, y: top - 8 }, title),
      svg("line", { class: "frame", x1: LEFT, x2: WIDTH - RIGHT, y1: top + STRIP, y2: top + STRIP }),
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: top, y2: top }),
      svg("text", { x: LEFT - 6, y: top + STRIP, "text-anchor": "end" }, low),
      svg("text", { x: LEFT - 6, y: top + 8, "text-anchor": "end" }, high));
  }

  // Where the centres are as they enter each layer: layers down, values across.
  function moves(layers, queries, values) {
    const box = element("div");
    const centres = example().centres;
    if (!centres) {
      box.append(element("p", { class: "quiet" }, `${run().model} has no bias, so it has no centres: its weights come from keys and queries alone.`));
      return box;
    }
    const width = 340, left = 44, gap = Math.min(120, 360 / Math.max(1, layers - 1)), height = 40 + gap * (layers - 1) + 34;
    const x = (c) => left + ((Math.max(-0.5, Math.min(values - 0.5, c)) + 0.5) / values) * (width - left - 10), y = (layer) => 20 + layer * gap;
    const plot = svg("svg", { class: "still", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Centres of ${queries} queries through ${layers} layers` });
    for (let layer = 0; layer < layers; layer++) {
      plot.append(svg("line", { class: layer === chosen.layer ? "chosen" : "grid", x1: left, x2: width - 10, y1: y(layer), y2: y(layer) }),
        svg("text", { x: left - 6, y: y(layer) + 4, "text-anchor": "end" }, `layer ${layer + 1}`));
    }
    for (let i = 0; i < queries; i++) if (i !== chosen.query) plot.append(svg("path", { class: "others", d: path(centres.map((row, layer) => [x(row[i]), y(layer)])) }));
    plot.append(svg("path", { class: "bias", d: path(centres.map((row, layer) => [x(row[chosen.query]), y(layer)])) }));
    centres.forEach((row, layer) => plot.append(svg("circle", { class: "centre", cx: x(row[chosen.query]), cy: y(layer), r: 4.5 })));
    for (const j of labels(values, width - left)) plot.append(svg("text", { x: x(j), y: y(layers - 1) + 22, "text-anchor": "middle" }, String(j)));
    plot.append(svg("text", { x: (left + width - 10) / 2, y: height - 2, "text-anchor": "middle" }, "centre (position of a value)"));
    box.append(element("p", { class: "quiet" }, `Centres as they enter each layer: query ${chosen.query} in colour, the others grey.`), plot);
    return box;
  }

  function say(place) {
    if (!place) {
      readout.textContent = "Point at a cell for its weight; a click chooses its query.";
      return;
    }
    const [i, j] = place;
    const bias = run().bias ? biasRow(chosen.layer, i, example().weights[0][0][0].length)[j] : null;
    readout.textContent = `query ${i}, value ${j}: weight ${weightRow(i)[j].toFixed(3)}` + (bias === null ? "" : `, bias ${bias.toFixed(2)}`);
  }

  narrow.addEventListener("change", draw);
  fill();
  draw();
})();
