// The transform: statistics of a minibatch, running ones, Algorithm 2's, and those of all values.
"use strict";

Explorables.register("transform", ({ form, view, say, data }) => {
  const { Chart, element, legend, number, select, slider } = Explorables;
  const SEEN = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200];
  const SHARES = [0.05, 0.25, 0.5, 0.75, 0.95];
  const BINS = 32;
  const names = Object.keys(data.features);

  const feature = select(form, "Feature", names, show);
  const size = slider(form, "Batch size", show);
  const momentum = slider(form, "Momentum (weight of the new batch)", show);
  const seen = slider(form, "Minibatches seen", show);
  const example = slider(form, "Example to classify, quantile", show);
  size.set(data.sizes, 2);
  momentum.set(data.momenta, data.momenta.indexOf(0.1));
  seen.set(SEEN, 5);
  example.set(SHARES, 3);

  legend(view, [
    { look: "theory", text: "all images" },
    { look: "with", text: "the last minibatch", dots: true },
    { look: "third", text: "running average" },
    { look: "fourth", text: "Algorithm 2" },
  ]);
  const charts = element("div", { class: "explorable-pair" });
  view.append(charts);
  const histogram = new Chart(charts.appendChild(element("div")), 240);
  const course = new Chart(charts.appendChild(element("div")), 240);
  const body = element("tbody");
  const heads = ["Statistics", "mean", "variance", "the example, normalised"];
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  view.append(element("table", { class: "explorable-live" }, element("thead", {}, head), body));

  const mean = (x) => x.reduce((sum, value) => sum + value, 0) / x.length;

  // Mean and variance, the latter times m/(m - 1): what is kept for inference.
  function statistics(x) {
    const mu = mean(x);
    return { mean: mu, variance: mean(x.map((value) => (value - mu) ** 2)) * (x.length / (x.length - 1)) };
  }

  // Minibatch k of m: every epoch visits all values once, each in an order of its own.
  function minibatch(x, k, m) {
    return Array.from({ length: m }, (_, j) => {
      const at = k * m + j;
      const odd = 2 * Math.floor(at / x.length) + 1;
      return x[((at % x.length) * odd) % x.length];
    });
  }

  function followed(x, m, rho, count) {
    const steps = [];
    let running = { mean: 0, variance: 1 };
    let sums = { mean: 0, variance: 0 };
    for (let k = 0; k < count; k += 1) {
      const batch = statistics(minibatch(x, k, m));
      const each = (f) => ({ mean: f("mean"), variance: f("variance") });
      const before = [running, sums];
      running = each((key) => before[0][key] + rho * (batch[key] - before[0][key]));
      sums = each((key) => before[1][key] + batch[key]);
      const algorithm = each((key) => sums[key] / (k + 1));
      steps.push({ batch, running, algorithm });
    }
    return steps;
  }

  function show() {
    const x = data.features[names[feature.index]];
    const [m, rho, count] = [size.value, momentum.value, seen.value];
    const steps = followed(x, m, rho, count);
    const { batch, running, algorithm } = steps[count - 1];
    const all = statistics(x);
    drawValues(x, minibatch(x, count - 1, m), { all, batch, running, algorithm });
    drawCourse(steps, all, count);
    const sorted = [...x].sort((a, b) => a - b);
    const at = sorted[Math.floor(example.value * (x.length - 1))];
    // Within its minibatch a value is divided by the biased deviation, as in Algorithm 1.
    const biased = { mean: batch.mean, variance: (batch.variance * (m - 1)) / m };
    const through = (s) => (at - s.mean) / Math.sqrt(s.variance + data.eps);
    const lines = [
      ["the last minibatch", biased], ["running average", running],
      ["Algorithm 2", algorithm], ["all images", all],
    ];
    body.replaceChildren(...lines.map(([name, s]) => element("tr", {},
      element("th", { scope: "row" }, name),
      ...[s.mean, s.variance, through(s)].map((value) => element("td", {}, number(value))))));
    const told = data.recorded[size.index][momentum.index];
    say(
      `At inference the example at ${number(at)} becomes ${number(through(running))} by the running` +
        ` average, ${number(through(algorithm))} by Algorithm 2, ${number(through(all))} by all images.` +
        ` Recorded ConvNets at batch size ${m} and momentum ${number(rho)}, whole training:` +
        ` ${told.running.toFixed(2)} % of the test images by the running average,` +
        ` ${told.population.toFixed(2)} % by Algorithm 2; the running mean is off by` +
        ` ${told.mean_error.toFixed(3)} deviations, the running variance by a share of` +
        ` ${told.variance_error.toFixed(3)}.`,
    );
  }

  function drawValues(x, last, { all, batch, running, algorithm }) {
    const [low, high] = [Math.min(...x), Math.max(...x)];
    const width = (high - low) / BINS;
    const counts = Array(BINS).fill(0);
    x.forEach((value) => (counts[Math.min(BINS - 1, Math.floor((value - low) / width))] += 1));
    const top = Math.max(...counts);
    const rules = [[all, "theory"], [batch, "with"], [running, "third"], [algorithm, "fourth"]];
    const range = [Math.min(low, 0) - width, high + width];
    histogram.show({
      name: "Histogram of the feature over all images, the last minibatch's values and four means",
      x: { range, label: "value; lines are means" },
      y: { range: [0, 1.08 * top], label: "images" },
      marks: [
        { kind: "bars", look: "theory", points: counts.map((n, at) => [low + at * width, low + (at + 1) * width, n]) },
        { kind: "dots", look: "with", points: last.map((value) => [value, 0.03 * top]) },
        ...rules.map(([s, look]) => ({ kind: "rule", look, x: s.mean })),
      ],
    });
  }

  function drawCourse(steps, all, count) {
    const series = (key) => steps.map((step, at) => [at + 1, step[key].variance]);
    course.show({
      name: "Variance against minibatches seen: of each minibatch, running, Algorithm 2, all images",
      x: { range: [0, Math.max(2, count + 1)], label: "minibatches seen" },
      y: { range: [0, Math.max(1, 2 * all.variance)], label: "variance" },
      marks: [
        { kind: "dots", look: "with", points: series("batch") },
        { kind: "rule", look: "theory", y: all.variance },
        { kind: "line", look: "third", points: series("running") },
        { kind: "line", look: "fourth", points: series("algorithm") },
      ],
    });
  }

  show();
});
