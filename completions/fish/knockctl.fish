# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_knockctl_global_optspecs
    string join \n socket= json h/help V/version
end

function __fish_knockctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_knockctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_knockctl_using_subcommand
    set -l cmd (__fish_knockctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c knockctl -n "__fish_knockctl_needs_command" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_needs_command" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c knockctl -n "__fish_knockctl_needs_command" -s V -l version -d 'Print version'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "status" -d 'Show whether all is well, and the state of the daemon and of each rule. Exit status 1: not all is well'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "rules" -d 'Show the plan of the rules: what is guarded, how many knocks each rule has, what it opens, to how many addresses'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "grants" -d 'List the live grants; the one that expires first is at the top'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "grant" -d 'Grant a rule to an address, as if it had knocked; a command of the rule is not run'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "revoke" -d 'Revoke the grants to an address, or all grants'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "reload" -d 'Make the daemon read its configuration again; an invalid configuration changes nothing'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "try" -d 'Put the configuration in FILE in force for some time; without `knockctl confirm` in that time, knockd goes back to the one before, also after a crash or a restart'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "confirm" -d 'Keep the configuration that is being tried, and write it to the configuration file'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "watch" -d 'Show what packets of sources mean for the rules, as they come: how far each source is, and why it starts again'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "explain" -d 'Say what the packets of an address meant in the last minutes, and why nothing opened'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "history" -d 'Show who was in when: the grants of the last hours or days, from the journal of systemd'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "sequence" -d 'Print a random sequence of TCP ports for a rule'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "client" -d 'Print the entry of a rule for a user of knock-cli, one line of JSON with the secret sequence: for `knock-cli add`'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "doctor" -d 'Check that strangers cannot reach a guarded port and granted addresses can; needs root. Exit status 0: no problem or warning found'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "spa" -d 'Show who may ask with signed packets, begin to accept them, or hand one to the daemon'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "fleet" -d 'Show how grants are shared with the other nodes of the fleet, revoke on all of them, or make the key of this node'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "import" -d 'Convert a file of knock or knock-rs: the configuration goes to standard output, notes on what changes to standard error'
complete -c knockctl -n "__fish_knockctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand status" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand status" -s v -l verbose -d 'Show all counters, also those that are zero'
complete -c knockctl -n "__fish_knockctl_using_subcommand status" -l prometheus -d 'Print it for the textfile collector of Prometheus\' node exporter'
complete -c knockctl -n "__fish_knockctl_using_subcommand status" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand rules" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand rules" -l dot -d 'Print it as a graph for Graphviz: knockctl rules --dot | dot -Tsvg'
complete -c knockctl -n "__fish_knockctl_using_subcommand rules" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand rules" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand grants" -l rule -d 'Only those of this rule' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand grants" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand grants" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand grants" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand grant" -l timeout -d 'For how long, such as 90, 90s, 10m, 1h or 7d, instead of what the rule says' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand grant" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand grant" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand grant" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand revoke" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand revoke" -l all -d 'All grants to all addresses'
complete -c knockctl -n "__fish_knockctl_using_subcommand revoke" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand revoke" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand reload" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand reload" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand reload" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand try" -l for -d 'For how long, such as 90s, 10m or 1h' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand try" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand try" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand try" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand confirm" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand confirm" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand confirm" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand watch" -l rule -d 'Only those for this rule' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand watch" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand watch" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand watch" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand explain" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand explain" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand explain" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -l since -d 'How far back, such as 90m, 24h or 7d' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand sequence" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand sequence" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand sequence" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -l host -d 'The host as the user writes it; several with several options' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -l wait -d 'The TCP port to wait for, instead of the first that the rule opens' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -s c -l config -d 'The configuration file' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand client" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand doctor" -s c -l config -d 'The configuration file, which is checked where no daemon answers' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand doctor" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand doctor" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -f -a "init" -d 'Make a cover and a file of keys where they are missing, and print what to write into the configuration, and the secret URL for the users'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -f -a "keys" -d 'List the ssh keys that may sign packets: users, what they may ask for, and what they have done since the start'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -f -a "submit" -d 'Hand a signed packet to the daemon that came another way than by UDP, on standard input, as it is or in base64. Exit status 1: it was not accepted'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and not __fish_seen_subcommand_from init keys submit help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l host -d 'The name or address of this host as clients write it, instead of its own name' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l port -d 'The UDP port for the URL, instead of the first of the configuration, or 62201' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l realm -d 'The realm, which several hosts may have in common, instead of the host\'s name' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l directory -d 'Where to make the files, instead of beside the configuration file' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -s c -l config -d 'The configuration file; where it has `spa`, the URL is made of that' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l new-cover -d 'Make another cover, to replace the one that is in use'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l qr -d 'Print the URL as a QR code too'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from init" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from keys" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from keys" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from keys" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from submit" -l from -d 'The address that it came from' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from submit" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from submit" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from submit" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from help" -f -a "init" -d 'Make a cover and a file of keys where they are missing, and print what to write into the configuration, and the secret URL for the users'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from help" -f -a "keys" -d 'List the ssh keys that may sign packets: users, what they may ask for, and what they have done since the start'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from help" -f -a "submit" -d 'Hand a signed packet to the daemon that came another way than by UDP, on standard input, as it is or in base64. Exit status 1: it was not accepted'
complete -c knockctl -n "__fish_knockctl_using_subcommand spa; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "status" -d 'Show whether grants are shared now, and the state of the store. Exit status 1: they are not'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "nodes" -d 'List the nodes: when each was seen, whether it has the keys and rules of this one, and for which rules it may vouch'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "grants" -d 'List the live grants that other nodes have made; the one that expires first is at the top'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "revoke" -d 'Revoke the grants to an address on all nodes'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "check" -d 'Check the way to the store with the settings of the daemon: connection, TLS, permissions of the user, clock; needs root'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "keygen" -d 'Make the private key of this node where it is missing, and print its public key, for `fleet.nodes` of the configuration. A key that is there stays as it is'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and not __fish_seen_subcommand_from status nodes grants revoke check keygen help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from status" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from status" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from nodes" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from nodes" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from nodes" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from grants" -l rule -d 'Only those of this rule' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from grants" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from grants" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from grants" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from revoke" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from revoke" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from check" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from check" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from keygen" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from keygen" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from keygen" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "status" -d 'Show whether grants are shared now, and the state of the store. Exit status 1: they are not'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "nodes" -d 'List the nodes: when each was seen, whether it has the keys and rules of this one, and for which rules it may vouch'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "grants" -d 'List the live grants that other nodes have made; the one that expires first is at the top'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "revoke" -d 'Revoke the grants to an address on all nodes'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check the way to the store with the settings of the daemon: connection, TLS, permissions of the user, clock; needs root'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "keygen" -d 'Make the private key of this node where it is missing, and print its public key, for `fleet.nodes` of the configuration. A key that is there stays as it is'
complete -c knockctl -n "__fish_knockctl_using_subcommand fleet; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand import" -l interface -d 'An interface to listen on, or `any`, in place of what the file and the service say; repeat it for several' -r
complete -c knockctl -n "__fish_knockctl_using_subcommand import" -l socket -d 'The control socket of the daemon' -r -F
complete -c knockctl -n "__fish_knockctl_using_subcommand import" -l native -d 'Replace commands that open and close ports of the firewall by `allow` and `revoke`'
complete -c knockctl -n "__fish_knockctl_using_subcommand import" -l json -d 'Print a JSON document instead of text'
complete -c knockctl -n "__fish_knockctl_using_subcommand import" -s h -l help -d 'Print help'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "status" -d 'Show whether all is well, and the state of the daemon and of each rule. Exit status 1: not all is well'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "rules" -d 'Show the plan of the rules: what is guarded, how many knocks each rule has, what it opens, to how many addresses'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "grants" -d 'List the live grants; the one that expires first is at the top'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "grant" -d 'Grant a rule to an address, as if it had knocked; a command of the rule is not run'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "revoke" -d 'Revoke the grants to an address, or all grants'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "reload" -d 'Make the daemon read its configuration again; an invalid configuration changes nothing'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "try" -d 'Put the configuration in FILE in force for some time; without `knockctl confirm` in that time, knockd goes back to the one before, also after a crash or a restart'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "confirm" -d 'Keep the configuration that is being tried, and write it to the configuration file'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "watch" -d 'Show what packets of sources mean for the rules, as they come: how far each source is, and why it starts again'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "explain" -d 'Say what the packets of an address meant in the last minutes, and why nothing opened'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "history" -d 'Show who was in when: the grants of the last hours or days, from the journal of systemd'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "sequence" -d 'Print a random sequence of TCP ports for a rule'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "client" -d 'Print the entry of a rule for a user of knock-cli, one line of JSON with the secret sequence: for `knock-cli add`'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "doctor" -d 'Check that strangers cannot reach a guarded port and granted addresses can; needs root. Exit status 0: no problem or warning found'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "spa" -d 'Show who may ask with signed packets, begin to accept them, or hand one to the daemon'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "fleet" -d 'Show how grants are shared with the other nodes of the fleet, revoke on all of them, or make the key of this node'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "import" -d 'Convert a file of knock or knock-rs: the configuration goes to standard output, notes on what changes to standard error'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and not __fish_seen_subcommand_from status rules grants grant revoke reload try confirm watch explain history sequence client doctor spa fleet import help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from spa" -f -a "init" -d 'Make a cover and a file of keys where they are missing, and print what to write into the configuration, and the secret URL for the users'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from spa" -f -a "keys" -d 'List the ssh keys that may sign packets: users, what they may ask for, and what they have done since the start'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from spa" -f -a "submit" -d 'Hand a signed packet to the daemon that came another way than by UDP, on standard input, as it is or in base64. Exit status 1: it was not accepted'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "status" -d 'Show whether grants are shared now, and the state of the store. Exit status 1: they are not'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "nodes" -d 'List the nodes: when each was seen, whether it has the keys and rules of this one, and for which rules it may vouch'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "grants" -d 'List the live grants that other nodes have made; the one that expires first is at the top'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "revoke" -d 'Revoke the grants to an address on all nodes'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "check" -d 'Check the way to the store with the settings of the daemon: connection, TLS, permissions of the user, clock; needs root'
complete -c knockctl -n "__fish_knockctl_using_subcommand help; and __fish_seen_subcommand_from fleet" -f -a "keygen" -d 'Make the private key of this node where it is missing, and print its public key, for `fleet.nodes` of the configuration. A key that is there stays as it is'
