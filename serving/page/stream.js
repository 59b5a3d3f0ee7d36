// A streamed answer. What ends with [DONE] is whole; all else is told as what it is.

import { Refusal, reach } from "./api.js";

const BROKEN_OFF = "The answer broke off: the connection ended before it was whole.";

/** The chunks of a chat completion, as OpenAI's API has them. Throws Refusal where the answer fails. */
export async function* chat(body, signal) {
  const response = await reach("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(`The answer failed on the way: ${chunk.error.message}`);
    yield chunk;
  }
  throw new Refusal(BROKEN_OFF);
}

/** What the events of a stream of server-sent events say. */
async function* events(stream) {
  let pending = "";
  for await (const piece of texts(stream)) {
    const parts = (pending + piece).split(/\r?\n\r?\n/);
    pending = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(BROKEN_OFF);
  } finally {
    reader.cancel().catch(() => {}); // a stream that has failed can't be cancelled, and need not be
  }
}
