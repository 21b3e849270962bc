// Growth with depth at the start: activations by depth and gain, gradients by width.
"use strict";

Explorables.register("growth", ({ form, view, say, data }) => {
  const { Chart, legend, number, select, slider } = Explorables;
  const LOOKS = { "without BN": "without", "with BN": "with", "with BN and skips": "third" };
  const what = select(form, "What grows", ["activations, residual network", "gradients, plain network"], choose);
  const depth = slider(form, "Depth", show);
  const gain = slider(form, "Gain of the initial weights", show);
  const shapes = [...new Set(data.gradients.map((each) => each.nonlinearity))];
  const shape = select(form, "Nonlinearity", shapes, chooseWidth);
  const width = slider(form, "Width", show);
  legend(view, [
    { look: "without", text: "without BN", dots: true },
    { look: "with", text: "with BN", dots: true },
    { look: "third", text: "with BN and skips", dots: true },
    { look: "theory", text: "theory, wide layers" },
  ]);
  const chart = new Chart(view, 300);
  depth.set(data.depths, data.depths.length - 1, (each) => `${each.layers} layers`);
  gain.set(data.gains, data.gains.indexOf(1));
  shape.input.value = String(shapes.indexOf("ReLU"));

  function choose() {
    const gradients = what.index === 1;
    [depth.box, gain.box].forEach((box) => (box.hidden = gradients));
    shape.box.hidden = !gradients;
    chooseWidth();
    width.box.hidden = !gradients || width.values.length < 2;
    show();
  }

  function chooseWidth() {
    const own = data.gradients.filter((each) => each.nonlinearity === shapes[shape.index]);
    const widths = [...new Set(own.map((each) => each.width))].sort((a, b) => a - b);
    width.set(widths, widths.length - 1);
    show();
  }

  const perBlock = (course) => course.at(-1) ** (1 / (course.length - 1));
  const numbered = (course) => course.map((value, at) => [at + 1, value]);

  function show() {
    if (what.index === 1) {
      showGradients();
    } else {
      showActivations();
    }
  }

  function showActivations() {
    const network = depth.value;
    const [marks, said] = [[], []];
    for (const arm of ["without BN", "with BN"]) {
      const theory = network.theory[arm][arm === "with BN" ? 0 : gain.index];
      const measured = network.measured[arm][gain.index];
      const blocks = gain.value === 1 && network.blocks ? network.blocks[arm] : null;
      marks.push({ kind: "line", look: "theory", points: numbered(theory) });
      let found = null;
      if (blocks) {
        found = perBlock(blocks);
        const points = numbered(blocks);
        marks.push({ kind: "line", look: LOOKS[arm], points });
        marks.push({ kind: "dots", look: LOOKS[arm], points: points.filter((_, at) => at % 6 === 5) });
      } else if (measured !== null) {
        found = measured;
        const last = [theory.length, measured ** (theory.length - 1)];
        marks.push({ kind: "line", look: LOOKS[arm], points: [[1, 1], last] });
        marks.push({ kind: "dots", look: LOOKS[arm], points: [last] });
      }
      const ours = found === null ? "not measured" : `measured ${found.toFixed(3)}`;
      said.push(`${arm} ${ours}, theory ${perBlock(theory).toFixed(3)}`);
    }
    const g2 = gain.value ** 2;
    draw(marks, "residual block", "mean square over the first block's", network.theory["with BN"][0].length);
    say(
      `${network.layers} layers, gain ${number(gain.value)}, factor a block: ${said.join("; ")}.` +
        ` Within a stage and away from the borders the bounds without BN are ${number(1 + g2 / 4)} and ${number(1 + g2 / 2)}.`,
    );
  }

  function showGradients() {
    const own = data.gradients.filter(
      (each) => each.nonlinearity === shapes[shape.index] && each.width === width.value);
    const [marks, said] = [[], []];
    for (const { arm, layers, growth, theory } of own) {
      const points = numbered(layers);
      if (theory !== null) {
        const line = layers.map((_, at) => [at + 1, theory ** (layers.length - 1 - at)]);
        marks.push({ kind: "line", look: "theory", points: line });
      }
      marks.push({ kind: "line", look: LOOKS[arm], points }, { kind: "dots", look: LOOKS[arm], points });
      const expected = theory === null ? "" : `, theory ${theory.toFixed(3)}`;
      said.push(`${arm} measured ${growth.toFixed(3)}${expected}`);
    }
    draw(marks, "layer", "squared gradient over the last layer's", own[0].layers.length);
    say(`${shapes[shape.index]}, width ${width.value}, squared gradient, factor a layer towards the input: ${said.join("; ")}.`);
  }

  function draw(marks, across, up, count) {
    const values = marks.flatMap((mark) => mark.points.map((point) => point[1]));
    const low = 10 ** Math.floor(Math.log10(Math.min(...values)) + 1e-9);
    const high = 10 ** Math.ceil(Math.log10(Math.max(...values)) + 1e-9);
    chart.show({
      name: `${up}, against the ${across}`,
      x: { range: [0.5, count + 0.5], label: across },
      y: { range: [low, high > low ? high : 10 * low], log: true, label: up },
      marks,
    });
  }

  choose();
});
