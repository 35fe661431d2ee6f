/** What people choose about how a report is shown to them. */

/** How people want their text; formats for machines ignore it. */
export interface RenderOptions {
  color: boolean;
  verbose: boolean;
  /** The verdict in words and nothing else. */
  brief: boolean;
  /** A filter names something: how that stands is said also where all is well. */
  named: boolean;
}
