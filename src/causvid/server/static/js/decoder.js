// Chunks into pictures, in order: by the browser's video decoder where it knows H.264, else picture by picture.

// The smallest WebP picture there is.
const WEBP = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==";

let known = null;

// Return the best format that this browser decodes: "h264", "webp" or "jpeg".
export function bestFormat() {
  known ??= (async () => {
    if (await decodes("avc1.4d400a")) return "h264";
    try {
      const bytes = Uint8Array.from(atob(WEBP), (letter) => letter.charCodeAt(0));
      (await createImageBitmap(new Blob([bytes], { type: "image/webp" }))).close();
      return "webp";
    } catch {
      return "jpeg";
    }
  })();
  return known;
}

async function decodes(codec) {
  try {
    return (await VideoDecoder.isConfigSupported({ codec, optimizeForLatency: true })).supported === true;
  } catch {
    return false; // no WebCodecs, which also needs HTTPS or localhost
  }
}

// Every decoder has `decode(parts, show)`, which calls `show(index, bitmap)` in order, and `reset()`.
export function makeDecoder(format, codec, failed) {
  return format === "h264" ? new VideoParts(codec, failed) : new PictureParts(`image/${format}`, failed);
}

class PictureParts {
  #last = Promise.resolve();
  #epoch = 0;

  constructor(type, failed) {
    this.type = type;
    this.failed = failed;
  }

  decode(parts, show) {
    const epoch = this.#epoch;
    const bitmaps = parts.map((part) => createImageBitmap(new Blob([part], { type: this.type })));
    this.#last = this.#last.then(async () => {
      for (const [index, bitmap] of bitmaps.entries()) {
        const picture = await bitmap;
        if (epoch === this.#epoch) show(index, picture);
        else picture.close();
      }
    }).catch((error) => this.failed(error));
  }

  reset() {
    this.#epoch++;
  }
}

class VideoParts {
  #decoder = null;
  #waiting = [];
  #epoch = 0;
  #last = Promise.resolve();

  constructor(codec, failed) {
    this.codec = codec;
    this.failed = failed;
  }

  decode(parts, show) {
    const decoder = this.#open();
    parts.forEach((data, index) => {
      this.#waiting.push({ index, show });
      decoder.decode(new EncodedVideoChunk({ type: index === 0 ? "key" : "delta", timestamp: index, data }));
    });
    // A chunk depends on none before it. Without a flush a decoder may keep its last frames until the next chunk.
    decoder.flush().catch(() => {});
  }

  reset() {
    this.#epoch++;
    this.#waiting = [];
    if (this.#decoder?.state !== "closed") this.#decoder?.close();
    this.#decoder = null;
  }

  #open() {
    if (this.#decoder) return this.#decoder;
    const epoch = this.#epoch;
    this.#decoder = new VideoDecoder({
      output: (frame) => {
        const place = epoch === this.#epoch ? this.#waiting.shift() : null;
        if (!place) return frame.close();
        // As a bitmap, since a decoder stops when many of its frames are held.
        const bitmap = createImageBitmap(frame).finally(() => frame.close());
        this.#last = this.#last.then(async () => {
          const picture = await bitmap;
          if (epoch === this.#epoch) place.show(place.index, picture);
          else picture.close();
        }).catch((error) => this.failed(error));
      },
      error: (error) => epoch === this.#epoch && this.failed(error),
    });
    this.#decoder.configure({ codec: this.codec, optimizeForLatency: true });
    return this.#decoder;
  }
}
