/** What a gate was asked, and what it answers. */
import type { ErrorInfo } from './error.ts';

/** How a node starts what a question names: a clone of a hot snapshot, or a new VM from an image. */
export type StartMode = 'clone' | 'run';

export type Answer = 'yes' | 'no' | 'unknown';

/** What the gate says of one node. */
export interface GateAnswer {
  node: string;
  answer: Answer;
  /** The verdict behind it in capitals, or the code of an error. */
  reasonCode: string;
  reason: string;
  /** A forced pull of the reference on this node turns the answer into a yes. */
  pullHelps: boolean;
  /** What else a person can do, and the exact commands where there are some. */
  help: string | null;
  commands: string[];
}

/** One image that somebody wants to start, with the answer of every node that it could be started on. */
export interface GateQuestion {
  /** `FILE:LINE` where the image is named, or the option. */
  source: string;
  /** `NAMESPACE/NAME` of the CocoonSet; null for a question of the command line. */
  set: string | null;
  role: 'agent' | 'toolbox' | null;
  toolbox: string | null;
  mode: StartMode;
  image: string;
  pool: string;
  /** The one node that the CocoonSet names, instead of its pool. */
  nodeName: string | null;
  /** How many nodes say yes, how many must, and what follows. */
  ready: number;
  needed: number;
  outcome: 'pass' | 'blocked' | 'incomplete';
  nodes: GateAnswer[];
}

/** A manifest, or a set in it, of which nothing was asked. */
export interface Refusal {
  /** FILE:LINE, or FILE. */
  source: string;
  error: ErrorInfo;
}

export interface Gate {
  pass: boolean;
  minReady: string;
  require: 'start' | 'in-sync';
  questions: GateQuestion[];
  errors: Refusal[];
}
