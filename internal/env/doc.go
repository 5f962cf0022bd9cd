// Package env is the one table of environment variables the runner reads, and
// the rules by which it reads them.
//
// [Load] merges the process environment with `.env` of the working directory
// and the file of --envfile, parses every variable that is used into a
// [Config], and reports all problems at once, each naming the variable and the
// value (secrets redacted). docs/environment.md is printed from the table and
// compared with it by a test, so the documentation cannot name what the program
// does not read.
//
// The package knows names, types and defaults; it refuses to know what the
// values do.
package env
