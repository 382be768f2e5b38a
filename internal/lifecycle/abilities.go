package lifecycle

// What drivers may be able to do beside their contract, asked for by type
// assertion: a driver whose instances have files, devices or processes that
// this host does not see says so by having the method.

// disker is a driver whose instances want their root as disks.
type disker interface{ RootAsDisk() bool }
