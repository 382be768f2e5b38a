package model

import "github.com/opencontainers/go-digest"

// RemoteImage is what a name means at its registry now.
type RemoteImage struct {
	Name       string // repository@digest
	Repository string // in full, with its registry
	Digest     digest.Digest
}

// ImageSignature is one to be put beside an image: cosign's simple signing.
type ImageSignature struct {
	Payload   []byte
	Signature []byte
}

// ImageKeys are what to verify with: public keys in PEM form, or with none
// those that the engine's trust policy names for the repository.
type ImageKeys struct {
	Keys          string `json:",omitempty"`
	AnyRepository bool   `json:",omitempty"` // take signatures that name another repository, or none
}

// ImageVerification are the good signatures of an image.
type ImageVerification struct {
	RemoteImage
	Signatures []VerifiedSignature
}

// VerifiedSignature is one that a key made.
type VerifiedSignature struct {
	Key         string // its id
	KeyFile     string `json:",omitempty"` // of a policy's key
	Format      string
	Repository  string         `json:",omitempty"` // as the signer wrote it
	Annotations map[string]any `json:",omitempty"`
}
