// Keys of the arena: a, t, n, b vote, Enter takes a new pair after the vote, / goes to the message, Escape leaves it.
const starlingMessage = () => document.querySelector("#message textarea, #message input");
const starlingFocus = () => starlingMessage()?.focus();
const starlingBlur = () => document.activeElement?.blur();
const starlingRead = () => {
  starlingBlur();
  for (const panel of document.querySelectorAll(".panel")) {
    const asked = [...panel.querySelectorAll(".said.user")].at(-1);
    if (asked) panel.scrollTop = asked.offsetTop - panel.offsetTop - 48;
  }
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const writing = event.target.closest?.("input, textarea, [contenteditable]");
  if (writing) {
    if (event.key === "Escape") starlingBlur();
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    starlingFocus();
    return;
  }
  const voted = document.querySelector("#fresh.primary");
  const id = event.key === "Enter" && voted && event.target.tagName !== "BUTTON" ? "fresh" : `vote-${event.key.toLowerCase()}`;
  const button = document.getElementById(id);
  if (button && !button.disabled) {
    event.preventDefault();
    button.click();
  }
});
