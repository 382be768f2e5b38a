package model

// NetworkRules limit what an instance may send and receive. They are kept
// with its record, change while it runs, and add up with the limits of its
// labels. An entry is ADDRESS[/BITS][:PORT[-PORT]][/PROTOCOL] as in the labels
// wharf.egress.allow and its like.
type NetworkRules struct {
	EgressAllow  []string `json:"egressAllow,omitempty"`
	EgressDeny   []string `json:"egressDeny,omitempty"`
	IngressAllow []string `json:"ingressAllow,omitempty"`
	IngressDeny  []string `json:"ingressDeny,omitempty"`
	BandwidthIn  string   `json:"bandwidthIn,omitempty"`  // "10mbit"; "" is what the label says; "none" lifts the label's
	BandwidthOut string   `json:"bandwidthOut,omitempty"` // likewise
}

// NetworkRulesChange is what POST /wharf/v1/containers/{}/network-rules asks
// for. Unset and Clear come before Set.
type NetworkRulesChange struct {
	Set          []NetworkRule
	Unset        []NetworkRule // Verdict "" takes both away
	Clear        bool          // everything that is no label
	BandwidthIn  *string       // "none" lifts it, "" goes back to the label's
	BandwidthOut *string
}

// NetworkRule is one entry.
type NetworkRule struct {
	Direction string // "egress" or "ingress"
	Verdict   string // "allow" or "deny"
	Target    string // peer and port: the peer's for egress, the instance's own for ingress
	Source    string `json:",omitempty"` // in answers: "label" or "rule"
}

// NetworkLimits is how an instance is limited, by labels and rules together.
type NetworkLimits struct {
	ID      ID
	Name    string
	Running bool
	Rules   []NetworkRule
	// Egress and Ingress are the rest: "allow" or "deny" for what no rule
	// names.
	Egress, Ingress           string
	BandwidthIn, BandwidthOut NetworkRate
	Warnings                  []string `json:",omitempty"`
}

// NetworkRate is a limit of bandwidth in bits a second; Rate "" is none.
type NetworkRate struct {
	Rate   string
	Source string `json:",omitempty"`
}
