// Package ec2 is a strict fake of Amazon EC2: an http.Handler that the real SDK
// talks to through [fakecloud.Client]. It parses requests by the vendor's model
// and refuses what EC2 would refuse: unknown, ill-typed, missing or contradicting
// parameters, a wrong version, region or date. Beyond that it refuses, with the
// code [CodeUnmodelled], what EC2 knows and this fake does not do, so that no
// parameter is ever ignored in silence.
//
// Everything has its time: machines are pending for seconds, what was made is
// not seen at once, what is gone is listed for an hour. Nothing runs meanwhile;
// what is due is carried out, in its order and with its own time, when a call
// comes. [Cloud]'s methods beside ServeHTTP are for tests, to make trouble and
// to look behind the scenes; [Cloud.Books] are the oracle for leaks.
//
// It knows nothing of the product but the cloud's own words. What it does not
// know of the cloud: signatures are looked at, not reckoned; prices, IPv6,
// launch templates, placement groups, dedicated hosts, Elastic IPs, snapshots,
// and any network traffic.
package ec2
