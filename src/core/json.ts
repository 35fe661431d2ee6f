/** Reading untrusted JSON: each function returns a value of the asked type, or throws a `ShapeError` with its place. */

/** A value that is not what it must be. Adapters turn it into the error of the node or registry that sent it. */
export class ShapeError extends Error {}

export type JsonObject = Record<string, unknown>;

/** Of one text, in objects and lists together: each takes far more memory than its text. */
const MAX_VALUES = 250_000;

/**
 * @param max how many values it may hold
 * @throws ShapeError for what is no JSON, or holds more values than anything that we read
 */
export function parseJson(text: string, where: string, max = MAX_VALUES): unknown {
  if (text.length > max && hasMoreValues(text, max)) throw new ShapeError(`${where} has more than ${max} values`);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ShapeError(`${where} is no JSON: ${(error as Error).message}`);
  }
}

/** Counts what may come before a value, also where it is in a string. */
function hasMoreValues(text: string, max: number): boolean {
  let values = 0;
  for (let i = 0; i < text.length && values <= max; i += 1) {
    const char = text.charCodeAt(i);
    if (char === 0x2c || char === 0x5b || char === 0x7b) values += 1; // , [ {
  }
  return values > max;
}

export function object(value: unknown, where: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ShapeError(`${where} is no object`);
  return value as JsonObject;
}

export function array(value: unknown, where: string, max: number): unknown[] {
  if (!Array.isArray(value)) throw new ShapeError(`${where} is no list`);
  if (value.length > max) throw new ShapeError(`${where} has more than ${max} items`);
  return value;
}

/** A string of at most `max` characters without control characters. */
export function text(value: unknown, where: string, max = 2048): string {
  if (typeof value !== 'string') throw new ShapeError(`${where} is no string`);
  // oxlint-disable-next-line no-control-regex -- refusing control characters is the point
  if (value.length > max || /[\x00-\x1f\x7f-\x9f]/.test(value))
    throw new ShapeError(`${where} is too long or holds control characters`);
  return value;
}

/** As `text`; null where the field is not there or empty, as Go omits empty fields. */
export function optionalText(value: unknown, where: string, max = 2048): string | null {
  return value === undefined || value === null || value === '' ? null : text(value, where, max);
}

/** A whole number from 0 up. */
export function size(value: unknown, where: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw new ShapeError(`${where} is no size`);
  return value;
}

export function digest(value: unknown, where: string): string {
  if (typeof value !== 'string' || !/^sha256:[0-9a-f]{64}$/.test(value))
    throw new ShapeError(`${where} is no sha256 digest`);
  return value;
}
