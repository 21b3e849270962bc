// The scale of the weights: what a factor, the rate and the decay do to norm and angle of a step.
"use strict";

Explorables.register("scale", ({ form, view, say, data }) => {
  const { Chart, element, legend, number, slider } = Explorables;
  const factor = slider(form, "Factor a of the weights", show);
  const rate = slider(form, "Learning rate", show);
  const decay = slider(form, "Weight decay", show);
  factor.set(data.factors, data.factors.indexOf(1));
  rate.set(data.rates, data.rates.indexOf(0.3));
  decay.set(data.decays, data.decays.length - 2);

  legend(view, [
    { look: "with", text: "recorded, with BN", line: false, dots: true },
    { look: "theory", text: "formula, the gradient's size as at the start" },
    { look: "third", text: "equilibrium" },
  ]);
  const charts = element("div", { class: "explorable-pair" });
  view.append(charts);
  const norm = new Chart(charts.appendChild(element("div")), 240);
  const angle = new Chart(charts.appendChild(element("div")), 240);

  // A step of SGD: the squared norm shrinks by the decay and grows by the squared gradient, which
  // is size / squared norm, for the gradient is orthogonal to the weights and falls as they grow.
  function course(squared, alpha, lambda) {
    const found = [squared];
    for (let step = 0; step < data.steps; step += 1) {
      squared = (1 - alpha * lambda) ** 2 * squared + (alpha ** 2 * data.size) / squared;
      found.push(squared);
    }
    return found;
  }

  // Deviation of the output over that at a = 1, where Wu has a variance of 1.
  function output(a) {
    return a * Math.sqrt((1 + data.eps) / (a * a + data.eps));
  }

  function reach(points, more = []) {
    const values = [...points.map((point) => point[1]), ...more].filter((value) => value > 0);
    return [10 ** Math.floor(Math.log10(Math.min(...values))), 10 ** Math.ceil(Math.log10(Math.max(...values)) + 0.01)];
  }

  function show() {
    const [a, alpha, lambda] = [factor.value, rate.value, decay.value];
    const start = a * a * data.squared_norm;
    const squares = course(start, alpha, lambda);
    const every = squares.map((_, step) => step).filter((step) => step && (step < 64 || step % 20 === 0));
    const run = data.runs.find((each) => each.a === a && each.rate === alpha && each.decay === lambda);
    const recorded = (key) => (run ? run.steps.map((step, at) => [step, run[key][at]]) : []);
    const shrink = 1 - (1 - alpha * lambda) ** 2;
    const rest = lambda ? alpha * Math.sqrt(data.size / shrink) : null;
    const root = Math.sqrt(2 * alpha * lambda);
    const turn = (squared) => (alpha * Math.sqrt(data.size)) / squared;
    draw(norm, "squared norm", every.map((step) => [step, squares[step]]), recorded("squared_norm"), rest);
    draw(angle, "angle of a step (rad)", every.map((step) => [step, turn(squares[step])]), recorded("angle"), root || null);
    say(
      `Against a = 1 the output is multiplied by ${number(output(a))}, the first gradient by ${number(1 / a)}.` +
        ` Effective rate at the start: ${number(alpha / start)}.` +
        (lambda
          ? ` Equilibrium: a step turns the weights by ${number(root)}, at a squared norm of ${number(rest)} for this gradient.`
          : " Without decay there is no equilibrium: the norm only grows.") +
        (run
          ? ` Recorded after ${data.steps} steps: squared norm ${number(run.squared_norm.at(-1))}, angle ${number(run.angle.at(-1))}.`
          : " This setting was not run: the formula alone."),
    );
  }

  function draw(chart, label, formula, dots, rest) {
    const marks = rest ? [{ kind: "rule", look: "third", y: rest }] : [];
    marks.push({ kind: "line", look: "theory", points: formula });
    marks.push({ kind: "dots", look: "with", points: dots });
    chart.show({
      name: `${label} against training step`,
      x: { range: [1, data.steps * 1.2], log: true, label: "training step" },
      y: { range: reach([...formula, ...dots], rest ? [rest] : []), log: true, label },
      marks,
    });
  }

  show();
});
