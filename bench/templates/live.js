// Asks for the page again every few seconds, until it is told to let it stand.
"use strict";
const button = document.createElement("button");
let waiting;
const go = () => {
  waiting = setTimeout(() => location.reload(), 5000);
  button.textContent = "let this page stand";
};
button.addEventListener("click", () => {
  clearTimeout(waiting);
  if (button.textContent !== "follow the run again") button.textContent = "follow the run again";
  else go();
});
document.querySelector("main").append(button);
go();
