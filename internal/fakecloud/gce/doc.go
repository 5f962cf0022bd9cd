// Package gce is a strict fake of Google Compute Engine: a handler that the real
// client reaches through fakecloud.Client, without a socket.
//
// Every request is checked against the vendor's own description of the API,
// reduced to the methods the fake has (discovery.json): an unknown path, method,
// parameter or property, a value of the wrong type and a missing one are
// refused, as is what names no such zone, image, network, disk or machine type.
// What the description allows and the fake does not model is refused too, with
// 501, rather than ignored.
//
// Resources change with the clock: what is due is carried out, at the time it
// was due, when somebody looks. Nothing here starts a goroutine.
//
// The fake misbehaves when it is told to: see [Cloud.Faults], [Cloud.Spoil],
// [Cloud.StopOut], [Cloud.SetQuota], [Cloud.Unreachable], [Cloud.Preempt],
// [Cloud.HostError] and [Options]. Its books say what was ever made, and how
// often each method was called.
package gce
