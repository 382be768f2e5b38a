package trust

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// bundle is the part of a Sigstore bundle that a key's signature needs.
type bundle struct {
	MediaType string `json:"mediaType"`
	Envelope  *struct {
		Payload     []byte `json:"payload"`
		PayloadType string `json:"payloadType"`
		Signatures  []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	} `json:"dsseEnvelope"`
}

// statement is the part of an in-toto statement that names its subject.
type statement struct {
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Digest      map[string]string `json:"digest"`
		Annotations map[string]any    `json:"annotations"`
	} `json:"subject"`
}

func checkBundle(s Signature, w Want, keys []PublicKey) (Verified, error) {
	var b bundle
	if err := json.Unmarshal(s.Payload, &b); err != nil {
		return Verified{}, fmt.Errorf("not a Sigstore bundle: %w", err)
	}
	if b.Envelope == nil || b.Envelope.PayloadType != inTotoType {
		return Verified{}, otherf("a bundle without an in-toto statement says nothing about an image")
	}
	signed := preAuthenticated(b.Envelope.PayloadType, b.Envelope.Payload)
	for _, k := range keys {
		for _, sig := range b.Envelope.Signatures {
			if k.verify(signed, sig.Sig) != nil {
				continue
			}
			v, err := checkStatement(b.Envelope.Payload, w.Digest)
			v.Key = k
			if err == nil && w.Repository != "" {
				err = otherf("the signature is a Sigstore bundle, which names no repository: identity \"any\" (--any-repository) takes it")
			}
			return v, err
		}
	}
	return Verified{}, errSignature
}

// preAuthenticated is what DSSE signs (dsse protocol.md, "PAE").
func preAuthenticated(typ string, body []byte) []byte {
	out := []byte("DSSEv1 " + strconv.Itoa(len(typ)) + " " + typ + " " + strconv.Itoa(len(body)) + " ")
	return append(out, body...)
}

// checkStatement: attestations are statements too, but only cosign's own says
// "I sign this image".
func checkStatement(b []byte, want digest.Digest) (Verified, error) {
	var st statement
	if err := json.Unmarshal(b, &st); err != nil {
		return Verified{}, fmt.Errorf("the signed text is no in-toto statement: %w", err)
	}
	v := Verified{Format: FormatBundle}
	if st.PredicateType != cosignSigned {
		return v, otherf("it is a statement of type %q", st.PredicateType)
	}
	for _, s := range st.Subject {
		if s.Digest[want.Algorithm().String()] == want.Encoded() {
			v.Annotations = s.Annotations
			return v, nil
		}
	}
	return v, otherf("the signature is for something else than %s", want)
}
