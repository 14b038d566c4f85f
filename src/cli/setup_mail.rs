//! `consentry setup --mail`: how to register the mail account without a password, and to restrict it to one mailbox.

use std::fmt::Write as _;

use crate::config::{Config, MailAccount, MailTransport, SmtpLogin};

/// The application id of Office 365 Exchange Online, the same in every tenant (Microsoft, `first-party-apps-sign-in.md`).
const EXCHANGE_ONLINE: &str = "00000002-0000-0ff1-ce00-000000000000";

/// The account as far as it is configured.
struct Account<'c> {
    mailbox: &'c str,
    client_id: &'c str,
    tenant: &'c str,
}

/// Both ways, that of the configuration first, as comments and commands for Azure CLI and Exchange Online PowerShell.
pub(super) fn render(config: &Config) -> String {
    let transport = config.email.as_ref().map(|email| &email.transport);
    let account = match transport {
        Some(MailTransport::Graph(graph)) => named(&graph.mailbox, &graph.account),
        Some(MailTransport::Smtp(smtp)) => match &smtp.login {
            Some(SmtpLogin::OAuth2(mailbox, account)) => named(mailbox, account),
            _ => UNKNOWN,
        },
        None => UNKNOWN,
    };
    let mut out = String::from(INTRODUCTION);
    registration(&mut out, &account);
    let smtp_first = matches!(transport, Some(MailTransport::Smtp(_)));
    for way in if smtp_first { [smtp, graph] } else { [graph, smtp] } {
        way(&mut out, &account);
    }
    let _ = write!(
        out,
        "\n# Last: try it. A permission takes up to two hours to spread through Exchange Online.\n\
         consentry check-config --online\n\
         consentry test-email you@example.com\n"
    );
    out
}

const INTRODUCTION: &str = "\
# The mail account without a password: an application registration that may send from one mailbox, and do nothing else.
# Exchange Online switches basic authentication for SMTP off by default at the end of December 2026.
# Register it in the tenant of the mailbox. It is none of the applications that are probed: its failure would silence the
# mails about it.
";

const UNKNOWN: Account<'static> = Account {
    mailbox: "alerts@example.com",
    client_id: "00000000-0000-0000-0000-000000000000",
    tenant: "example.onmicrosoft.com",
};

fn named<'c>(mailbox: &'c str, account: &'c MailAccount) -> Account<'c> {
    Account { mailbox, client_id: &account.client_id, tenant: &account.tenant }
}

fn registration(out: &mut String, account: &Account<'_>) {
    let Account { client_id, tenant, .. } = account;
    let _ = write!(
        out,
        "\n# 1. The registration, its enterprise application and a secret, in the tenant {tenant} (Azure CLI). If it exists\n\
         #    already, only the last line is needed.\n\
         az ad app create --display-name \"Consentry mail\" --sign-in-audience AzureADMyOrg --query appId -o tsv\n\
         client_id={client_id}\n\
         az ad sp create --id \"$client_id\"\n\
         az ad app credential reset --id \"$client_id\" --query password -o tsv > mail-secret\n\
         az ad sp show --id \"$client_id\" --query id -o tsv    # the object id for the next steps\n"
    );
}

fn graph(out: &mut String, account: &Account<'_>) {
    let Account { mailbox, client_id, tenant } = account;
    // As PowerShell reads it within quotation marks.
    let quoted = mailbox.replace('`', "``").replace('$', "`$").replace('\'', "''");
    let _ = write!(
        out,
        "\n# With Microsoft Graph (email.graph): Exchange's RBAC for Applications grants Mail.Send for this one mailbox.\n\
         # Do not grant Mail.Send in Entra: that would be for every mailbox. So the token has no roles, which is right, and only\n\
         # a mail shows whether it may send. In Exchange Online PowerShell:\n\
         #   Connect-ExchangeOnline -Organization {tenant}\n\
         #   New-ServicePrincipal -AppId {client_id} -ObjectId OBJECT_ID -DisplayName \"Consentry mail\"\n\
         #   New-ManagementScope -Name \"Consentry mail\" -RecipientRestrictionFilter \"PrimarySmtpAddress -eq '{quoted}'\"\n\
         #   New-ManagementRoleAssignment -Name \"Consentry mail\" -App OBJECT_ID -Role \"Application Mail.Send\" -CustomResourceScope \"Consentry mail\"\n\
         #   Test-ServicePrincipalAuthorization -Identity OBJECT_ID -Resource {mailbox}\n\
         # and in the configuration:\n\
         #   email:\n\
         #     graph: {{tenant_id: {tenant}, client_id: {client_id}, credential: {{client_secret_file: mail-secret}}, sender: {mailbox}}}\n"
    );
}

fn smtp(out: &mut String, account: &Account<'_>) {
    let Account { mailbox, client_id, tenant } = account;
    let _ = write!(
        out,
        "\n# With SMTP (XOAUTH2, email.smtp.oauth2): the permission SMTP.SendAsApp in Entra opens no mailbox by itself.\n\
         #   role=$(az ad sp show --id {EXCHANGE_ONLINE} --query \"appRoles[?value=='SMTP.SendAsApp'].id\" -o tsv)\n\
         #   az ad app permission add --id {client_id} --api {EXCHANGE_ONLINE} --api-permissions \"$role=Role\"\n\
         #   az ad app permission admin-consent --id {client_id}\n\
         # The mailbox is opened to it in Exchange Online PowerShell:\n\
         #   Connect-ExchangeOnline -Organization {tenant}\n\
         #   New-ServicePrincipal -AppId {client_id} -ObjectId OBJECT_ID -DisplayName \"Consentry mail\"\n\
         #   Add-MailboxPermission -Identity {mailbox} -User OBJECT_ID -AccessRights FullAccess\n\
         #   Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false\n\
         # and in the configuration:\n\
         #   email:\n\
         #     smtp:\n\
         #       host: smtp.office365.com\n\
         #       username: {mailbox}\n\
         #       oauth2: {{tenant_id: {tenant}, client_id: {client_id}, client_secret_file: mail-secret}}\n"
    );
}
