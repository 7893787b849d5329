// Prompts as text that can be steered: replace or add a word of one kind, and leave everything else as it was typed.

// How a motion is said. What the server lists and is not here is said as listed.
const MOTIONS = {
  "moving left": "moving to the left",
  "moving right": "moving to the right",
  hopping: "hopping up and down",
  circling: "moving in circles",
  floating: "floating gently",
  swaying: "swaying from side to side",
};
const PLACES = { forest: "in a forest", mountains: "over the mountains", moon: "on the moon", seabed: "on the seabed" };
const ASIDES = {
  weather: { rain: "in the rain", snow: "in falling snow", fog: "in the fog", leaves: "among falling leaves", clear: "" },
  time: { sunset: "at sunset", night: "at night", dawn: "at dawn", day: "" },
  camera: {
    zooming: "camera zooming", panning: "camera panning", tilting: "camera tilting", shaking: "camera shaking",
    static: "",
  },
};
// What the arrow keys make of the subject: the first that the model knows.
const STEERS = {
  left: ["moving left"],
  right: ["moving right"],
  up: ["hopping", "floating"],
  down: ["standing still", "spinning"],
};

const TRAVEL = "(?:moving|travelling|flying|walking|swimming|sailing|crawling|driving|gliding|going|running)";
const MOTION = new RegExp(
  `\\b(?:(?:${TRAVEL})(?: to the| in)? (?:left|right|circles)|hopping(?: up and down)?|bouncing|spinning(?: around)?` +
    "|rotating|growing and shrinking|pulsing|swaying(?: from side to side)?|rocking|circling|looping around" +
    "|floating(?: gently)?|hovering|shivering|trembling|twirling|flipping(?: around)?|zigzagging(?: along)?" +
    `|standing still|resting|${TRAVEL})\\b`,
  "i",
);
// A place ends at a comma, at the words of an aside, or at the prompt's end.
const ASIDE = "(?:in (?:the )?(?:rain|fog)|in falling snow|while it snows|among falling|in autumn|at (?:sunset|night|dawn|sunrise)" +
  "|by night|in the evening|camera|slow (?:zoom|pan|tilt)|shaky camera)";
const PLACE = new RegExp(
  `\\b(?!${ASIDE}\\b)(?:over|across|above|along|through|under|in|on)(?: (?:a|an|the))? ` +
    `(?:(?!${TRAVEL}\\b|${ASIDE}\\b)[^\\s,]+ ?){1,4}(?=\\s*(?:,|$|${ASIDE}|${MOTION.source}))`,
  "i",
);
const SAID = {
  weather: /\b(?:in (?:the )?(?:rain|fog)|in falling snow|while it snows|among falling leaves|in autumn leaves)\b/i,
  time: /\b(?:at (?:sunset|night|dawn|sunrise)|by night|in the evening)\b/i,
  camera: /\b(?:camera (?:zooming|panning|tilting|shaking)|slow (?:zoom|pan|tilt)|shaky camera)\b/i,
};

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const oneOf = (values) =>
  new RegExp(`\\b(?:${[...values].sort((a, b) => b.length - a.length).map(escape).join("|")})\\b`, "i");

export function phraseOf(kind, value) {
  if (kind === "motion") return MOTIONS[value] ?? value;
  if (kind === "place") return PLACES[value] ?? `over a ${value}`;
  return ASIDES[kind]?.[value] ?? value;
}

// Return the prompt with the word of this kind replaced, or added where such a word goes.
export function setWord(prompt, kind, value, vocabulary) {
  const text = prompt.trim();
  const phrase = phraseOf(kind, value);
  if (kind === "subject") return tidy(setSubject(text, value, vocabulary));
  if (kind === "colour") return tidy(setColour(text, value, vocabulary));
  if (kind === "motion") return tidy(replaceOr(text, MOTION, phrase, () => addMotion(text, phrase)));
  if (kind === "place") return tidy(replaceOr(text, PLACE, phrase, () => addPlace(text, phrase)));
  return tidy(replaceOr(text, SAID[kind] ?? oneOf([value]), phrase, () => (phrase ? `${text}, ${phrase}` : text)));
}

// Return the values of a kind that the prompt names.
export function namedWords(prompt, kind, vocabulary) {
  const text = prompt.toLowerCase();
  if (kind === "motion" || kind === "place" || kind in ASIDES) {
    const said = (kind === "motion" ? MOTION : kind === "place" ? PLACE : SAID[kind]).exec(prompt)?.[0].toLowerCase() ?? "";
    return vocabulary[kind].filter((value) => said && (said.trim() === phraseOf(kind, value) || said.includes(value)));
  }
  return vocabulary[kind].filter((value) => oneOf([value]).test(text));
}

// Return the motion that an arrow key stands for. vocabulary: null for a model that knows more than can be listed.
export function motionOf(direction, vocabulary) {
  const [first, ...others] = STEERS[direction];
  return [first, ...others].find((motion) => vocabulary?.motion?.includes(motion)) ?? first;
}

function replaceOr(text, pattern, phrase, add) {
  return pattern.test(text) ? text.replace(pattern, () => phrase) : add();
}

function setSubject(text, value, vocabulary) {
  const subjects = oneOf(vocabulary.subject);
  if (subjects.test(text)) return text.replace(subjects, () => value);
  // A colour alone is waiting for its subject.
  const colour = vocabulary.colour && oneOf(vocabulary.colour).exec(text);
  if (colour) return `${text.slice(0, colour.index + colour[0].length)} ${value}${text.slice(colour.index + colour[0].length)}`;
  return text ? `a ${value} ${text}` : `a ${value}`;
}

function setColour(text, value, vocabulary) {
  const colours = oneOf(vocabulary.colour);
  if (colours.test(text)) return text.replace(colours, () => value);
  const subject = vocabulary.subject && oneOf(vocabulary.subject).exec(text);
  if (subject) return `${text.slice(0, subject.index)}${value} ${text.slice(subject.index)}`;
  return text ? `${text}, ${value}` : `a ${value}`;
}

function addMotion(text, phrase) {
  const place = PLACE.exec(text) ?? /,/.exec(text);
  if (!place || place.index === 0) return text.includes(",") ? text.replace(/,?\s*$/, ` ${phrase}`) : `${text} ${phrase}`;
  return `${text.slice(0, place.index)} ${phrase} ${text.slice(place.index)}`;
}

function addPlace(text, phrase) {
  const comma = text.indexOf(",");
  return comma < 0 ? `${text} ${phrase}` : `${text.slice(0, comma)} ${phrase}${text.slice(comma)}`;
}

function tidy(text) {
  return text
    .replace(/\s+/g, " ")
    .replace(/\s+,/g, ",")
    .replace(/(?:,\s*)+(?=,|$)/g, "")
    .replace(/^[\s,]+/, "")
    .trim()
    .replace(/\b(an?) (?=(\w))/gi, (_, article, letter) =>
      (/[aeiou]/i.test(letter) ? "an" : "a")[article[0] === "A" ? "toUpperCase" : "toString"]().replace("AN", "An") + " ");
}
