// Marks the page where the browser has no mathematics font: the subscript of x_1 is then as low as x, or higher.
addEventListener("DOMContentLoaded", () => {
  document.body.insertAdjacentHTML("beforeend", "<math><msub><mi>x</mi><mn>1</mn></msub></math>");
  const probe = document.body.lastElementChild;
  const [base, subscript] = probe.firstElementChild.children;
  const lowered = subscript.getBoundingClientRect().bottom > base.getBoundingClientRect().bottom + 1;
  document.documentElement.classList.toggle("no-math-font", !lowered);
  probe.remove();
});
