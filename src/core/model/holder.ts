/** Who holds a lock. */

export interface Holder {
  user: string;
  host: string;
  pid: number;
  /** The id of the run. */
  run: string;
  /** RFC 3339, UTC. */
  since: string;
}
