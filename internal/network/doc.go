// Package network is the room of networks: bridges, links, addresses,
// routes, published ports, names, and the one nftables table that is ours.
//
// # What it owns
//
// The directory Options.Dir (one JSON file per network: Docker's own
// network.Network, so that there is no second description of a network); the
// bridge links that the networks name; the host ends of the containers' veth
// pairs; macvlan and ipvlan slices, and the VLAN or dummy links that it made
// for them; the nftables table Options.Table in family inet. It never runs
// iptables or nft, never changes a link that it did not make, never touches
// another's table unless Options.FirewallMode says so (foreign.go), and never switches the network namespace of a thread for longer
// than it takes to open a socket or write a sysctl in it.
//
// # Invariants
//
//   - A network's kernel objects are made at the first attach, not at Open: a
//     daemon that may not change the host's network still runs containers
//     with "none" and "host".
//   - What a container holds is keyed by its id. The host end of its nth
//     interface is called "wh" + the id's first twelve digits + n in base 36,
//     so that a sweep needs no list.
//   - Addresses live in memory only; Restore brings them back from the
//     containers' records after a restart of the daemon.
//   - Removing a veth takes the kernel 30 ms under the rtnl lock. Detach
//     frees addresses and ports at once and leaves the link to the end of the
//     namespace; a janitor removes what is still there seconds later.
//   - In a container's own namespace stand the tables "wharf" (the way from
//     127.0.0.11) and "wharf-limits" (its labels), and, where it has no bridge
//     to this host, sockets of a name server; they go with the namespace.
//   - The default route and 127.0.0.11 follow one order of the networks,
//     ranked, at Attach, Connect and Refresh alike.
//   - The table is written whole, in one transaction, and written again when
//     somebody else removed it (watch.go).
//
// # Lock order
//
// Room.mu, then nothing. net.making (one maker of a bridge at a time) and
// firewall.mu are taken without Room.mu held; firewall.mu may take Room.mu.
package network
