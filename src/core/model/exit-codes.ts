/** Every exit code of the program, by name. The program, the help and the README take them from this table. */

export type Signal = 'SIGHUP' | 'SIGINT' | 'SIGTERM';

interface ExitCode {
  code: number;
  /** The word that begins the last line of a report that ends with this code. */
  word: string;
  /** What the help says of it. */
  about: string;
  /** What the README says of it. */
  meaning: string;
}

const INTERRUPTED = {
  word: 'INTERRUPTED',
  about: 'interrupted',
  meaning:
    'SIGHUP, SIGINT, SIGTERM: what was begun was finished or cleaned up, and the report says where each node stands',
};

export const EXIT_CODES = {
  OK: {
    code: 0,
    word: 'OK',
    about: 'in sync or healed, the gate passes',
    meaning: 'everything asked about is in sync, or was healed and verified; the gate passes',
  },
  ERROR: {
    code: 1,
    word: 'ERROR',
    about: 'the run could not be done',
    meaning: 'the run could not be done: bad usage or config, a filter that matches nothing, no answer from epoch',
  },
  DRIFT: {
    code: 2,
    word: 'DRIFT',
    about: 'drift is left, the gate says no',
    meaning: 'drift was found and is still there; the gate says no',
  },
  INCOMPLETE: {
    code: 3,
    word: 'INCOMPLETE',
    about: 'the picture is incomplete',
    meaning:
      'the picture is incomplete: some nodes or tags could not be read, or nothing was judged; what was is in sync',
  },
  FAILED: {
    code: 4,
    word: 'FAILED',
    about: 'a pull or a verification failed',
    meaning: 'something failed that had begun: a pull, a verification, a clone verification',
  },
  LOCKED: {
    code: 75,
    word: 'LOCKED',
    about: 'another run holds the lock',
    meaning: 'another run over the whole fleet holds the lock: nothing was done, try later',
  },
  SIGHUP: { code: 129, ...INTERRUPTED },
  SIGINT: { code: 130, ...INTERRUPTED },
  SIGTERM: { code: 143, ...INTERRUPTED },
} as const satisfies Record<string, ExitCode> & Record<Signal, ExitCode>;

/** The word that begins the last line of a report with this exit code. */
export function wordOfExit(code: number): string {
  return Object.values(EXIT_CODES).find((row) => row.code === code)?.word ?? EXIT_CODES.ERROR.word;
}

/** Codes that mean the same, as one row: `129, 130, 143`. */
export function exitCodeRows(): { codes: string; about: string; meaning: string }[] {
  const codes = new Map<string, { codes: string; about: string; meaning: string }>();
  for (const { code, about, meaning } of Object.values(EXIT_CODES)) {
    const same = codes.get(meaning);
    codes.set(meaning, { codes: same === undefined ? String(code) : `${same.codes}, ${code}`, about, meaning });
  }
  return [...codes.values()];
}
