
// Noise curves: a panel for each task, with the values under the pointer or at the arrow keys.
(() => {
  const WIDTH = matchMedia("(max-width: 48rem)").matches ? 350 : 460, HEIGHT = 290, LEFT = 46, RIGHT = 14, TOP = 12, BOTTOM = 44;
  const shown = (value) => value.toFixed(value !== 0 && Math.abs(value) < 0.1 ? 4 : 3);

  function sample(colour, dash) {
    return svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true", style: `color:var(--ink)` },
      svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.4, "stroke-dasharray": dash }));
  }

  function panel(data) {
    const highest = Math.max(...data.models.flatMap((model) => model.points.map((point) => point.high ?? point.mean)));
    const top = data.metric === "accuracy" ? 1 : [0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.8, 1].find((t) => t >= Math.min(1, highest));
    const [first, last] = [data.noise[0], data.noise[data.noise.length - 1]];
    const x = (noise) => LEFT + 10 + ((noise - first) / (last - first)) * (WIDTH - LEFT - RIGHT - 20);
    const y = (score) => TOP + (1 - Math.min(score, top) / top) * (HEIGHT - TOP - BOTTOM);
    const hidden = new Set();
    let level = null;

    const drawn = svg("g");
    const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "img",
      "aria-label": `${data.title}, ${data.subtitle}: ${data.metric} against noise` });
    for (let i = 0; i <= 4; i++) {
      const score = (top * i) / 4;
      plot.append(
        svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(score), y2: y(score) }),
        svg("text", { x: LEFT - 7, y: y(score) + 4, "text-anchor": "end" }, String(+score.toFixed(3))));
    }
    for (const noise of data.noise) {
      plot.append(svg("text", { x: x(noise), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, String(noise)));
    }
    plot.append(
      svg("line", { class: "frame", x1: LEFT, x2: WIDTH - RIGHT, y1: y(0), y2: y(0) }),
      svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "noise (level of misalignment)"),
      svg("text", { transform: `translate(11 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, `test ${data.metric}`));
    const references = [["chance", "3 3", data.metric === "accuracy" ? "best guess without context" : "by chance"], ["ceiling", "7 4", "best achievable"]]
      .map(([name, dash, label]) => [data.noise.map((noise, i) => [noise, data[name][i]]).filter(([, score]) => score !== null), dash, label])
      .filter(([points]) => points.some(([, score]) => score <= top));
    for (const [points, dash] of references) {
      plot.append(svg("path", { class: "reference", "stroke-dasharray": dash, d: path(points.map(([noise, score]) => [x(noise), y(score)])) }));
    }
    plot.append(drawn);

    const tip = element("div", { class: "tip", role: "status", hidden: "" });
    const legend = element("div", { class: "legend" });
    const box = element("div", { class: "panel" },
      element("h3", {}, data.title), element("p", { class: "quiet" }, data.subtitle), plot, tip, legend);
    for (const model of data.models) {
      const button = element("button", { type: "button", "aria-pressed": "true" }, sample(model.colour, model.dash), model.name);
      button.addEventListener("click", () => {
        if (!hidden.delete(model.name)) hidden.add(model.name);
        button.setAttribute("aria-pressed", String(!hidden.has(model.name)));
        draw();
      });
      legend.append(button);
    }
    for (const [, dash, label] of references) legend.append(element("span", {}, sample("var(--quiet)", dash), label));

    function draw() {
      drawn.replaceChildren();
      for (const model of data.models.filter((one) => !hidden.has(one.name))) {
        const banded = model.points.filter((point) => point.low !== null);
        const edge = [...banded.map((p) => [x(p.noise), y(p.high)]), ...banded.map((p) => [x(p.noise), y(p.low)]).reverse()];
        const group = svg("g", { style: "color:var(--ink)" });
        if (banded.length > 1) group.append(svg("path", { class: "band", fill: model.colour, d: `${path(edge)}Z` }));
        else for (const p of banded) group.append(svg("line", { stroke: model.colour, x1: x(p.noise), x2: x(p.noise), y1: y(p.low), y2: y(p.high) }));
        group.append(svg("path", { class: "line", stroke: model.colour, "stroke-dasharray": model.dash,
          d: path(model.points.map((p) => [x(p.noise), y(p.mean)])) }));
        for (const p of model.points) {
          group.append(svg("circle", { cx: x(p.noise), cy: y(p.mean), r: p.noise === level ? 4.2 : 2.6, fill: model.colour }));
        }
        drawn.append(group);
      }
      if (level !== null) drawn.prepend(svg("line", { class: "guide", x1: x(level), x2: x(level), y1: TOP, y2: y(0) }));
      say();
    }

    function say() {
      const rows = data.models.filter((model) => !hidden.has(model.name))
        .map((model) => [model, model.points.find((point) => point.noise === level)])
        .filter(([, point]) => point)
        .sort(([, a], [, b]) => b.mean - a.mean);
      tip.hidden = level === null || !rows.length;
      if (tip.hidden) return;
      const grid = element("div");
      for (const [model, point] of rows) {
        grid.append(sample(model.colour, model.dash), element("span", {}, model.name), element("span", {}, shown(point.mean)),
          element("i", {}, point.low === null ? "" : `[${shown(point.low)}, ${shown(point.high)}]`));
      }
      const counts = rows.map(([, point]) => point.seeds.length), [few, many] = [Math.min(...counts), Math.max(...counts)];
      const seeds = many === 1 ? "one seed" : few === many ? `${many} seeds` : `${few} to ${many} seeds`;
      tip.replaceChildren(element("b", {}, `noise ${level}, ${seeds}`), grid);
      // Beside the level, in the half of the panel where the lines are not.
      const at = plot.getBoundingClientRect(), around = box.getBoundingClientRect();
      const middle = at.left - around.left + (x(level) * at.width) / WIDTH;
      const left = middle + 14 + tip.offsetWidth <= box.clientWidth ? middle + 14 : middle - 14 - tip.offsetWidth;
      const high = rows.reduce((sum, [, point]) => sum + point.mean, 0) / rows.length > top / 2;
      tip.style.left = `${Math.max(4, Math.min(left, box.clientWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${at.top - around.top + (high ? 0.45 * at.height : 12)}px`;
    }

    function choose(next) {
      if (next === level) return;
      level = next;
      draw();
    }
    const nearest = (event) => {
      const at = plot.getBoundingClientRect();
      const place = ((event.clientX - at.left) / at.width) * WIDTH;
      choose(data.noise.reduce((best, noise) => (Math.abs(x(noise) - place) < Math.abs(x(best) - place) ? noise : best)));
    };
    plot.addEventListener("pointermove", nearest);
    plot.addEventListener("pointerdown", nearest);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(null));
    plot.addEventListener("blur", () => choose(null));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") choose(null);
      if (!step) return;
      event.preventDefault();
      const i = level === null ? (step > 0 ? -1 : data.noise.length) : data.noise.indexOf(level);
      choose(data.noise[Math.max(0, Math.min(data.noise.length - 1, i + step))]);
    });
    draw();
    return box;
  }

  document.getElementById("panels")?.append(...inline("panels-data").map(panel));
})();
