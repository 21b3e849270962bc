// The map of learning rates: choose networks, then one of them, then a rate to read.
"use strict";

Explorables.register("rates", ({ form, view, say, data }) => {
  const { Chart, legend, number, select, slider } = Explorables;
  const LOOKS = { "without BN": "without", "with BN": "with" };
  const HEADS = { bjorck_dose: "Growth at the start, a block" };
  const FIRST = 0.01;

  const family = select(form, "Networks", data.families.map((each) => each.name), choose);
  const network = slider(form, "Depth", chooseNetwork);
  const rate = slider(form, "Learning rate to read", show);
  legend(view, [
    { look: "without", text: "without BN", dots: true },
    { look: "with", text: "with BN", dots: true },
    { look: "ring", text: "rate chosen on validation images", line: false, dots: true },
    { look: "paper", text: "the paper: 110 layers without BN", line: false, dots: true, shape: "without" },
    { look: "paper", text: "and with it", line: false, dots: true, shape: "diamond" },
  ]);
  const chart = new Chart(view, 300);

  const rates = data.families.flatMap((each) =>
    each.networks.flatMap((one) => Object.values(one.arms).flatMap((arm) => arm.points.map((p) => p[0]))));
  const limits = [Math.min(...rates) / 1.3, Math.max(...rates) * 1.3];

  const chosen = () => data.families[family.index];

  function choose() {
    network.box.querySelector("label").textContent = HEADS[chosen().record] || "Network";
    network.set(chosen().networks, 0, (each) => each.mark);
    chooseNetwork();
  }

  // The rate that was read stays where the new network has it, or the nearest does.
  function chooseNetwork() {
    const was = rate.values.length ? rate.value : FIRST;
    const points = Object.values(network.value.arms).flatMap((arm) => arm.points);
    const found = [...new Set(points.map((point) => point[0]))].sort((a, b) => a - b);
    const apart = found.map((each) => Math.abs(Math.log(each / was)));
    rate.set(found, apart.indexOf(Math.min(...apart)));
    show();
  }

  function read(arm) {
    const point = network.value.arms[arm].points.find((each) => each[0] === rate.value);
    if (!point) {
      return `${arm} there is no run at this rate`;
    }
    const [, mean, , , runs, failed] = point;
    const lost = failed ? `, ${failed} of them lost` : "";
    return `${arm} ${mean.toFixed(1)} % of the test images (${runs} ${runs === 1 ? "run" : "runs"}${lost})`;
  }

  function best(arm) {
    const { points, tuned } = network.value.arms[arm];
    if (tuned === null) {
      return `${arm} ${points.length ? "none learns" : "none was run yet"}`;
    }
    return `${arm} ${number(tuned)}`;
  }

  function show() {
    const marks = [{ kind: "rule", look: "cursor", x: rate.value }];
    for (const { arm, rate: at, accuracy } of data.paper) {
      const shape = LOOKS[arm] === "without" ? "without" : "diamond";
      marks.push({ kind: "dots", look: "paper", shape, points: [[at, accuracy]] });
    }
    for (const [arm, look] of Object.entries(LOOKS)) {
      const { points, tuned } = network.value.arms[arm];
      const banded = points.filter((point) => point[2] !== null);
      const means = points.map(([at, mean]) => [at, mean]);
      marks.push({ kind: "band", look, points: banded.map(([at, , low, high]) => [at, low, high]) });
      marks.push({ kind: "line", look, points: means }, { kind: "dots", look, points: means });
      const ring = means.filter(([at]) => at === tuned);
      marks.push({ kind: "dots", look: "ring", shape: "ring", points: ring });
    }
    const arms = Object.keys(LOOKS);
    chart.show({
      name: `Test accuracy against learning rate, ${network.value.name}, without and with BN`,
      x: { range: limits, log: true, label: "learning rate" },
      y: { range: [0, 100], label: "final test accuracy (%)" },
      marks,
    });
    say(
      `${network.value.name}, rate ${number(rate.value)}: ${arms.map(read).join("; ")}.` +
        ` Rate chosen on validation images: ${arms.map(best).join("; ")}.`,
    );
  }

  choose();
});
