package image

// What tests of the package look at from inside.
var (
	Furnish    = furnish
	TakeKernel = takeKernel
	VendorData = vendorData
)
