// Package poolfile reads pool.yml: text with positions in, a [pool.Config] and
// a list of [Findings] out. It reports every problem at once, each with its
// line, its path and what to do.
//
// One table, the tags of the structs here and of the drivers' specs, gives the
// parser, the JSON Schema and the tables of docs/pool-file.md.
//
// It never touches a cloud and knows no driver: the caller passes the
// registrations it was built with.
package poolfile
