package gce

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// handler carries out a method, with the cloud's lock held, or, where it waits,
// without.
type handler struct {
	at    func(c *Cloud, r *request, call fakecloud.Call, now time.Time) (object, error)
	waits func(c *Cloud, ctx context.Context, r *request) (object, error)
}

// handlers are the methods of the reduced description, all of them.
var handlers = map[string]handler{
	"compute.instances.insert":              {at: (*Cloud).insertInstance},
	"compute.instances.get":                 {at: (*Cloud).getInstance},
	"compute.instances.list":                {at: (*Cloud).listInstances},
	"compute.instances.aggregatedList":      {at: (*Cloud).aggregateInstances},
	"compute.instances.delete":              {at: (*Cloud).deleteInstance},
	"compute.instances.suspend":             {at: (*Cloud).suspendInstance},
	"compute.instances.resume":              {at: (*Cloud).resumeInstance},
	"compute.instances.start":               {at: (*Cloud).startInstance},
	"compute.instances.stop":                {at: (*Cloud).stopInstance},
	"compute.instances.reset":               {at: (*Cloud).resetInstance},
	"compute.instances.setLabels":           {at: (*Cloud).setLabels},
	"compute.instances.setMetadata":         {at: (*Cloud).setMetadata},
	"compute.instances.setTags":             {at: (*Cloud).setTags},
	"compute.instances.setDiskAutoDelete":   {at: (*Cloud).setDiskAutoDelete},
	"compute.instances.attachDisk":          {at: (*Cloud).attachDisk},
	"compute.instances.detachDisk":          {at: (*Cloud).detachDisk},
	"compute.instances.getSerialPortOutput": {at: (*Cloud).serialPort},
	"compute.instances.getGuestAttributes":  {at: (*Cloud).guestAttributes},

	"compute.disks.insert":         {at: (*Cloud).insertDisk},
	"compute.disks.get":            {at: (*Cloud).getDisk},
	"compute.disks.delete":         {at: (*Cloud).deleteDisk},
	"compute.disks.list":           {at: (*Cloud).listDisks},
	"compute.disks.aggregatedList": {at: (*Cloud).aggregateDisks},
	"compute.disks.setLabels":      {at: (*Cloud).setDiskLabels},
	"compute.disks.resize":         {at: (*Cloud).resizeDisk},

	"compute.zoneOperations.get":      {at: (*Cloud).getOperation},
	"compute.zoneOperations.wait":     {waits: (*Cloud).waitOperation},
	"compute.zoneOperations.list":     {at: (*Cloud).listOperations},
	"compute.zoneOperations.delete":   {at: (*Cloud).deleteOperation},
	"compute.regionOperations.get":    {at: (*Cloud).getOperation},
	"compute.regionOperations.wait":   {waits: (*Cloud).waitOperation},
	"compute.regionOperations.list":   {at: (*Cloud).listOperations},
	"compute.regionOperations.delete": {at: (*Cloud).deleteOperation},
	"compute.globalOperations.get":    {at: (*Cloud).getOperation},
	"compute.globalOperations.wait":   {waits: (*Cloud).waitOperation},
	"compute.globalOperations.list":   {at: (*Cloud).listOperations},
	"compute.globalOperations.delete": {at: (*Cloud).deleteOperation},

	"compute.reservations.insert": {at: (*Cloud).insertReservation},
	"compute.reservations.get":    {at: (*Cloud).getReservation},
	"compute.reservations.delete": {at: (*Cloud).deleteReservation},
	"compute.reservations.list":   {at: (*Cloud).listReservations},

	"compute.firewalls.insert": {at: (*Cloud).insertFirewall},
	"compute.firewalls.get":    {at: (*Cloud).getFirewall},
	"compute.firewalls.list":   {at: (*Cloud).listFirewalls},
	"compute.firewalls.delete": {at: (*Cloud).deleteFirewall},

	"compute.images.get":           {at: (*Cloud).getImage},
	"compute.images.getFromFamily": {at: (*Cloud).getFromFamily},
	"compute.images.list":          {at: (*Cloud).listImages},
	"compute.machineTypes.get":     {at: (*Cloud).getMachineType},
	"compute.machineTypes.list":    {at: (*Cloud).listMachineTypes},
	"compute.diskTypes.get":        {at: (*Cloud).getDiskType},
	"compute.diskTypes.list":       {at: (*Cloud).listDiskTypes},
	"compute.regions.get":          {at: (*Cloud).getRegion},
	"compute.regions.list":         {at: (*Cloud).listRegions},
	"compute.zones.get":            {at: (*Cloud).getZone},
	"compute.zones.list":           {at: (*Cloud).listZones},
	"compute.networks.get":         {at: (*Cloud).getNetwork},
	"compute.networks.list":        {at: (*Cloud).listNetworks},
	"compute.subnetworks.get":      {at: (*Cloud).getSubnetwork},
	"compute.subnetworks.list":     {at: (*Cloud).listSubnetworks},
	"compute.projects.get":         {at: (*Cloud).getProject},
}
