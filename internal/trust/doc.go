// Package trust knows signatures of images: keys, what is signed, how that is
// checked, and the policy that says whose signatures an engine wants. It is
// pure: it reads key and policy files and does no other I/O; who fetches and
// publishes signatures is the image room, who signs is the command line.
//
// # Formats
//
// Those of cosign with keys. Simple signing: a JSON payload that names a
// manifest's digest and the repository, signed as it stands; it lies in a
// registry as a layer of a manifest that is tagged sha256-<digest>.sig, the
// signature beside it in an annotation. Sigstore bundle 0.3: a DSSE envelope
// with an in-toto statement about the digest, in a manifest that refers to the
// image as its subject. Private keys are PKCS#8, plain or in cosign's
// encrypted form (scrypt, then NaCl's secretbox).
//
// # Never
//
// No certificates, no transparency log, no network: a signature counts when
// one of the given keys made it, and for nothing else.
package trust
