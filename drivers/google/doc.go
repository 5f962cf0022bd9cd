// Package google makes machines on Google Compute Engine.
//
// spec.go has the keys of a pool's spec, their defaults and rules; it is all
// there is of the package when it is built with the tag no_google, which leaves
// the vendor's client out of the program. The rest is the driver.
//
// Nothing the driver remembers matters after a restart. A call that changes
// something carries a requestId made of the machine's name, the zone and what is
// asked for, so that it can be repeated after a lost answer; a machine that an
// earlier process has begun is found by its name in every zone. What belongs to
// whom stands in labels, made to fit, to be searched by, and in the metadata
// (machines) or the description (disks), as it is, to be read back.
//
// Every call goes through an account's budget, see call.go, and results of many
// machines are read together, see operation.go and find.go.
package google
