/** What a user, a pipeline and the report are told about something that went wrong. */
export interface ErrorInfo {
  code: string;
  message: string;
  /** What to do about it. */
  hint: string;
}
